//! A permit cannot be forged, copied, revived from bytes or used twice: each attempt is a program that does not compile.

use agentd_core::permit::Permit;

/// The honest way compiles, so the forgeries fail for their own reason.
#[path = "forge/honest.rs"]
mod honest;

/// Compiles only while `$type` implements none of the traits: otherwise `seen` is ambiguous.
macro_rules! implements_none {
    ($type:ty: $($bound:path),+) => { $(const _: fn() = || {
        trait Ambiguous<Marker> {
            fn seen() {}
        }
        impl<T: ?Sized> Ambiguous<()> for T {}
        impl<T: ?Sized + $bound> Ambiguous<u8> for T {}
        let _ = <$type as Ambiguous<_>>::seen;
    };)+ };
}

implements_none!(Permit: Clone, Copy, Default, serde::Serialize, serde::de::DeserializeOwned);

#[test]
fn a_permit_comes_from_the_gates_alone_and_works_once() {
    honest::main();
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/forge/literal.rs");
    cases.compile_fail("tests/forge/constructor.rs");
    cases.compile_fail("tests/forge/default.rs");
    cases.compile_fail("tests/forge/copy.rs");
    cases.compile_fail("tests/forge/change.rs");
    cases.compile_fail("tests/forge/twice.rs");
    cases.compile_fail("tests/forge/other_gates.rs");
}
