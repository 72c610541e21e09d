//! Messages that are handed over as the bytes they came in, because most of what is in them can be read where it lies.

use bytes::{Buf as _, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// Buffers of a call: what comes is copied into one and read there, and answers are short.
const RECEIVED: usize = 64 << 10;
const ANSWERED: usize = 512;
/// What is ready is sent together up to about here.
const TOGETHER: usize = 32 << 10;

/// Messages as they were sent, and answers of one kind.
#[derive(Debug)]
pub(super) struct AsSent<T>(std::marker::PhantomData<fn() -> T>);

impl<T> Default for AsSent<T> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T: prost::Message + Send + 'static> Codec for AsSent<T> {
    type Encode = T;
    type Decode = Bytes;
    type Encoder = ProstEncoder<T>;
    type Decoder = Whole;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(ANSWERED, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        Whole
    }
}

/// Hands over the bytes of a message.
#[derive(Debug)]
pub(super) struct Whole;

impl Decoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(RECEIVED, TOGETHER)
    }
}
