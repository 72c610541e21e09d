//! Numbers of the learner: 32 bits before and 32 bits behind the point, so that a replay computes the same to the last bit on every
//! machine. What does not fit saturates; nothing here can panic.

use serde::{Deserialize, Serialize};

/// A number in units of 2^-32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fixed(i64);

/// Bits behind the point.
const BITS: u32 = 32;
/// Bits behind the point while a series is summed.
const WIDE: u32 = 56;
/// ln 2 in units of 2^-56.
const LN_2: i128 = 49_946_518_145_322_873;
/// Arguments of [`Fixed::exp`] beyond this are taken for it: e^21 still fits, e^-21 is next to nothing.
const EXP_MAX: i64 = 21 << BITS;
/// Terms of the exponential series: (ln 2 / 2)^14 / 14! is below 2^-57.
const EXP_TERMS: i64 = 14;
/// Terms of the series of the logarithm: 3^-37 / 37 is below 2^-63.
const LN_TERMS: i128 = 37;

impl Fixed {
    /// 0.
    pub const ZERO: Self = Self(0);
    /// 1.
    pub const ONE: Self = Self(1 << BITS);

    /// A number of millionths, rounded down.
    #[must_use]
    pub const fn micro(micro: i64) -> Self {
        narrow(((micro as i128) << BITS).div_euclid(1_000_000))
    }

    /// A whole number.
    #[must_use]
    pub const fn whole(whole: i32) -> Self {
        Self((whole as i64) << BITS)
    }

    /// From units of 2^-32.
    #[must_use]
    pub const fn from_bits(bits: i64) -> Self {
        Self(bits)
    }

    /// In units of 2^-32.
    #[must_use]
    pub const fn bits(self) -> i64 {
        self.0
    }

    /// In millionths, to the nearest.
    #[must_use]
    pub const fn to_micro(self) -> i64 {
        ((self.0 as i128 * 1_000_000 + (1 << (BITS - 1))) >> BITS) as i64
    }

    /// A share as permille, rounded down and within 0 and 1000.
    #[must_use]
    pub fn to_permille(self) -> u32 {
        let permille = (i128::from(self.0) * 1_000) >> BITS;
        u32::try_from(permille.clamp(0, 1_000)).unwrap_or(0)
    }

    /// `self * other`, rounded down.
    #[must_use]
    pub const fn times(self, other: Self) -> Self {
        narrow((self.0 as i128 * other.0 as i128) >> BITS)
    }

    /// `self / other`, rounded towards zero; the largest number of its sign when `other` is zero.
    #[must_use]
    pub const fn over(self, other: Self) -> Self {
        if other.0 == 0 {
            return if self.0 < 0 { Self(i64::MIN) } else { Self(i64::MAX) };
        }
        narrow(((self.0 as i128) << BITS) / other.0 as i128)
    }

    /// `self + other`.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `self - other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `-self`.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(self.0.saturating_neg())
    }

    /// The square root, rounded down; 0 of what is negative.
    #[must_use]
    pub fn sqrt(self) -> Self {
        let wide = u128::try_from(self.0).unwrap_or(0) << BITS;
        Self(i64::try_from(wide.isqrt()).unwrap_or(i64::MAX))
    }

    /// e^self. Relative error below 2^-50, plus the rounding to 2^-32; the argument is held within 21.
    #[must_use]
    pub fn exp(self) -> Self {
        let x = i128::from(self.0.clamp(-EXP_MAX, EXP_MAX)) << (WIDE - BITS);
        let halves = (x + LN_2 / 2).div_euclid(LN_2);
        // Half of ln 2 at most, so every term fits into 64 bits, where a division costs a tenth.
        let rest = x - halves * LN_2;
        let (mut term, mut sum) = (1_i64 << WIDE, 1_i64 << WIDE);
        for n in 1..=EXP_TERMS {
            term = ((i128::from(term) * rest) >> WIDE) as i64 / n;
            sum += term;
        }
        let sum = i128::from(sum);
        let down = i128::from(WIDE - BITS) - halves;
        let bits = match u32::try_from(down) {
            Ok(0) => sum,
            Ok(down) => (sum + (1_i128 << (down - 1))) >> down,
            Err(_) => sum << u32::try_from(-down).unwrap_or(0),
        };
        narrow(bits)
    }

    /// The natural logarithm. Absolute error below 2^-31; what is not positive counts as the smallest positive number.
    #[must_use]
    pub fn ln(self) -> Self {
        let bits = u64::try_from(self.0).unwrap_or(0).max(1);
        let power = bits.ilog2();
        // The mantissa lies in [1, 2): ln m = 2 artanh((m - 1) / (m + 1)).
        let mantissa = (i128::from(bits) << WIDE) >> power;
        let one = 1_i128 << WIDE;
        let z = ((mantissa - one) << WIDE) / (mantissa + one);
        let square = (z * z) >> WIDE;
        let (mut term, mut sum) = (z, 0);
        for n in (1..=LN_TERMS).step_by(2) {
            sum += term / n;
            term = (term * square) >> WIDE;
        }
        let exponent = i128::from(power) - i128::from(BITS);
        narrow((2 * sum + exponent * LN_2) >> (WIDE - BITS))
    }

    /// 1 / (1 + e^-self). Absolute error below 2^-30.
    #[must_use]
    pub fn sigmoid(self) -> Self {
        let small = Self(-self.0.saturating_abs()).exp();
        let rest = small.over(Self::ONE.plus(small));
        if self.0 < 0 { rest } else { Self::ONE.minus(rest) }
    }

    /// The log-odds of a probability, which is held within one and 999 of a thousand.
    #[must_use]
    pub fn logit(self) -> Self {
        let p = self.clamp(Self::micro(1_000), Self::micro(999_000));
        p.ln().minus(Self::ONE.minus(p).ln())
    }
}

/// The nearest number there is.
const fn narrow(bits: i128) -> Fixed {
    if bits > i64::MAX as i128 {
        Fixed(i64::MAX)
    } else if bits < i64::MIN as i128 {
        Fixed(i64::MIN)
    } else {
        Fixed(bits as i64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIT: f64 = 4_294_967_296.0;

    fn float(x: Fixed) -> f64 {
        x.0 as f64 / UNIT
    }

    #[test]
    fn constants_and_edges_are_what_they_say() {
        let two_to_56 = (1_u64 << 56) as f64;
        assert!((LN_2 as f64 / two_to_56 - std::f64::consts::LN_2).abs() < 1e-16);
        assert_eq!(Fixed::ZERO.exp(), Fixed::ONE);
        assert_eq!(Fixed::ONE.ln(), Fixed::ZERO);
        assert_eq!(Fixed::ZERO.sigmoid(), Fixed::micro(500_000));
        assert_eq!(Fixed::micro(1_500_000).to_micro(), 1_500_000);
        assert_eq!(Fixed::micro(-250_000).to_micro(), -250_000);
        assert_eq!(Fixed::whole(9).sqrt(), Fixed::whole(3));
        assert_eq!(Fixed::whole(-9).sqrt(), Fixed::ZERO);
        assert_eq!(Fixed(i64::MAX).exp(), Fixed::whole(21).exp());
        assert_eq!(Fixed::ONE.over(Fixed::ZERO), Fixed(i64::MAX));
        assert_eq!(Fixed(i64::MAX).times(Fixed::whole(2)), Fixed(i64::MAX));
        assert_eq!(Fixed::micro(999_999).to_permille(), 999);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_exponential_is_within_its_bound(bits in -EXP_MAX..=EXP_MAX) {
            let exact = float(Fixed(bits)).exp();
            let error = (float(Fixed(bits).exp()) - exact).abs();
            prop_assert!(error <= exact * 2_f64.powi(-50) + 1.0 / UNIT, "{error}");
        }

        #[test]
        fn the_logarithm_is_within_its_bound(power in 0..62_u32, low in any::<u64>()) {
            let bits = (1_i64 << power) | i64::try_from(low & ((1 << power) - 1)).unwrap();
            let error = (float(Fixed(bits).ln()) - float(Fixed(bits)).ln()).abs();
            prop_assert!(error <= 2.0 / UNIT, "{error}");
        }

        #[test]
        fn the_logistic_function_is_within_its_bound_and_undone_by_the_log_odds(
            micro in -6_900_000..=6_900_000_i64,
        ) {
            let x = Fixed::micro(micro);
            let exact = 1.0 / (1.0 + (-float(x)).exp());
            prop_assert!((float(x.sigmoid()) - exact).abs() <= 4.0 / UNIT);
            prop_assert!((float(x.sigmoid().logit()) - float(x)).abs() < 1e-5);
        }

        #[test]
        fn the_square_root_is_the_largest_that_fits(bits in 0..=i64::MAX) {
            let root = Fixed(bits).sqrt();
            prop_assert!((float(root) - float(Fixed(bits)).sqrt()).abs() <= 2.0 / UNIT + 1e-6);
        }
    }
}
