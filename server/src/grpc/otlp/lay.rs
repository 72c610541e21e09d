//! Metrics where they lie, in bytes that are known to be well-formed. What is absent has the value that protobuf gives it.

use crate::grpc::reader::{Field, fields, messages};

/// Which of the five kinds a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Sum,
    Histogram,
    Exponential,
    Summary,
}

/// A metric and its points.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric<'a> {
    pub(super) name: &'a str,
    pub(super) unit: &'a str,
    pub(super) kind: Option<Kind>,
    data: &'a [u8],
}

/// A point that is one number, or what is asked of any point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point<'a> {
    pub(super) start: u64,
    pub(super) time: u64,
    pub(super) flags: u64,
    /// What has no value is no number.
    pub(super) value: f64,
    pub(super) attributes: Attributes<'a>,
}

/// The attributes in one field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    bytes: &'a [u8],
    field: u64,
}

/// The value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Any<'a> {
    Text(&'a str),
    Int(i64),
    Other,
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The resources of a request.
pub(super) fn resources(request: &[u8]) -> impl Iterator<Item = &[u8]> {
    messages(request, 1)
}

/// The metrics of a resource.
pub(super) fn metrics(resource: &[u8]) -> impl Iterator<Item = Metric<'_>> {
    messages(resource, 2).flat_map(|scope| messages(scope, 2)).map(Metric::read)
}

/// Data points of a resource.
pub(super) fn all_points(resource: &[u8]) -> u64 {
    metrics(resource).map(|metric| metric.count()).fold(0, u64::saturating_add)
}

impl<'a> Metric<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let mut metric = Self { name: "", unit: "", kind: None, data: &[] };
        for (number, field) in fields(bytes) {
            let Field::Bytes(bytes) = field else { continue };
            let kind = match number {
                1 => {
                    metric.name = text(bytes);
                    continue;
                }
                3 => {
                    metric.unit = text(bytes);
                    continue;
                }
                5 => Kind::Gauge,
                7 => Kind::Sum,
                9 => Kind::Histogram,
                10 => Kind::Exponential,
                11 => Kind::Summary,
                _ => continue,
            };
            (metric.kind, metric.data) = (Some(kind), bytes);
        }
        metric
    }

    /// Its points, each a message of its kind.
    pub(super) fn points(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        messages(self.data, 1)
    }

    /// How many points it has.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.points().count()).unwrap_or(u64::MAX)
    }

    /// Number of its temporality, of which four bytes count.
    pub(super) fn temporality(&self) -> u64 {
        let found = fields(self.data).filter_map(|(number, field)| match field {
            Field::Number(temporality) if number == 2 => Some(temporality & u64::from(u32::MAX)),
            _ => None,
        });
        found.last().unwrap_or(0)
    }
}

impl<'a> Point<'a> {
    /// A point of a gauge or a sum.
    pub(super) fn number(bytes: &'a [u8]) -> Self {
        let attributes = Attributes { bytes, field: 7 };
        let mut point = Self { start: 0, time: 0, flags: 0, value: f64::NAN, attributes };
        for (number, field) in fields(bytes) {
            match (number, field) {
                (2, Field::Fixed(start)) => point.start = start,
                (3, Field::Fixed(time)) => point.time = time,
                (4, Field::Fixed(bits)) => point.value = f64::from_bits(bits),
                (6, Field::Fixed(bits)) => point.value = bits.cast_signed() as f64,
                (8, Field::Number(flags)) => point.flags = flags,
                _ => {}
            }
        }
        point
    }

    /// What is asked of a point of a histogram, whose attributes are in `field`.
    pub(super) const fn of(
        bytes: &'a [u8],
        field: u64,
        (start, time): (u64, u64),
        flags: u32,
    ) -> Self {
        let attributes = Attributes { bytes, field };
        Self { start, time, flags: flags as u64, value: f64::NAN, attributes }
    }
}

impl<'a> Attributes<'a> {
    /// Those of a resource.
    pub(super) fn of_resource(bytes: &'a [u8]) -> Self {
        Self { bytes: messages(bytes, 1).last().unwrap_or_default(), field: 1 }
    }

    /// Keys and values, each value as it is written.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        messages(self.bytes, self.field).map(|pair| {
            let (mut key, mut value) = ("", &[][..]);
            for (number, field) in fields(pair) {
                match (number, field) {
                    (1, Field::Bytes(bytes)) => key = text(bytes),
                    (2, Field::Bytes(bytes)) => value = bytes,
                    _ => {}
                }
            }
            (key, value)
        })
    }

    /// The value called `key`, if it has one.
    pub(super) fn get(&self, key: &str) -> Option<Any<'a>> {
        let (_, value) = self.iter().find(|(known, _)| *known == key)?;
        let (number, field) = fields(value).last()?;
        Some(match (number, field) {
            (1, Field::Bytes(bytes)) => Any::Text(text(bytes)),
            (3, Field::Number(number)) => Any::Int(number.cast_signed()),
            _ => Any::Other,
        })
    }

    /// The text called `key`.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        match self.get(key)? {
            Any::Text(text) => Some(text),
            Any::Int(_) | Any::Other => None,
        }
    }
}
