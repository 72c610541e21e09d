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
    /// How many of them there are.
    pub(super) attributes_count: usize,
}

/// What a resource says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Named<'a> {
    pub(super) service: &'a str,
    pub(super) environment: Option<&'a str>,
    pub(super) instance: &'a str,
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
        let (value, attributes_count) = (f64::NAN, 0);
        let mut point = Self { start: 0, time: 0, flags: 0, value, attributes, attributes_count };
        for (number, field) in fields(bytes) {
            match (number, field) {
                (2, Field::Fixed(start)) => point.start = start,
                (3, Field::Fixed(time)) => point.time = time,
                (4, Field::Fixed(bits)) => point.value = f64::from_bits(bits),
                (6, Field::Fixed(bits)) => point.value = bits.cast_signed() as f64,
                (7, Field::Bytes(_)) => {
                    point.attributes_count = point.attributes_count.saturating_add(1);
                }
                (8, Field::Number(flags)) => point.flags = flags,
                _ => {}
            }
        }
        point
    }

    /// What is asked of a point of a histogram, whose attributes are in `field`.
    pub(super) fn of(bytes: &'a [u8], field: u64, (start, time): (u64, u64), flags: u32) -> Self {
        let attributes = Attributes { bytes, field };
        let attributes_count = messages(bytes, field).count();
        let (value, flags) = (f64::NAN, u64::from(flags));
        Self { start, time, flags, value, attributes, attributes_count }
    }
}

impl<'a> Named<'a> {
    /// Of attributes with one key the first one counts.
    pub(super) fn of_resource(bytes: &'a [u8]) -> Self {
        let (mut service, mut environment, mut before, mut instance) = (None, None, None, None);
        let resource = messages(bytes, 1).last().unwrap_or_default();
        for (key, value) in (Attributes { bytes: resource, field: 1 }).iter() {
            let known = match key {
                "service.name" => &mut service,
                "deployment.environment.name" => &mut environment,
                // As it was called before.
                "deployment.environment" => &mut before,
                "service.instance.id" => &mut instance,
                _ => continue,
            };
            known.get_or_insert_with(|| Any::read(value).and_then(Any::text));
        }
        Self {
            service: service.flatten().unwrap_or_default(),
            environment: environment.flatten().or_else(|| before.flatten()),
            instance: instance.flatten().unwrap_or_default(),
        }
    }
}

impl<'a> Any<'a> {
    fn read(value: &'a [u8]) -> Option<Self> {
        let (number, field) = fields(value).last()?;
        Some(match (number, field) {
            (1, Field::Bytes(bytes)) => Any::Text(text(bytes)),
            (3, Field::Number(number)) => Any::Int(number.cast_signed()),
            _ => Any::Other,
        })
    }

    const fn text(self) -> Option<&'a str> {
        match self {
            Any::Text(text) => Some(text),
            Any::Int(_) | Any::Other => None,
        }
    }
}

impl<'a> Attributes<'a> {
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
        Any::read(value)
    }

    /// The text called `key`.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.text()
    }
}
