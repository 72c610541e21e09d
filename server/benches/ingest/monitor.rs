//! Monitors that report at a pace, each on apps of its own.

use std::time::{Duration, SystemTime};

use agentctl_api::v1;
use agentctl_api::v1::push_signals_request::Message as Wire;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::load::{self, Raw};
use crate::values;

/// Signals in a message.
pub(crate) const BATCH: usize = 100;

/// How often each app is reported on, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) period: Duration,
    pub(crate) rounds: u32,
}

/// One monitor with a connection and a principal of its own.
pub(crate) struct Monitor {
    channel: Channel,
    number: usize,
    /// The first app of each batch, and what is said of it and those behind it.
    batches: Vec<(usize, Vec<v1::Signal>)>,
    sent: u64,
    report: u64,
}

impl Monitor {
    /// The monitor `number`, that reports on those apps.
    pub(crate) async fn open(address: &str, number: usize, apps: std::ops::Range<usize>) -> Self {
        let signal = |app| v1::Signal { app: load::app(app), ..v1::Signal::default() };
        let batch = |first: usize| {
            let batch = first..apps.end.min(first + BATCH);
            (first, batch.map(signal).collect())
        };
        let batches = apps.clone().step_by(BATCH).map(batch).collect();
        Self { channel: load::connect(address).await, number, batches, sent: 0, report: 0 }
    }

    fn message(&mut self, which: usize) -> Bytes {
        let now = SystemTime::now();
        self.sent += 1;
        let (first, signals) = &mut self.batches[which];
        for (n, signal) in signals.iter_mut().enumerate() {
            values::fill(signal, *first + n, self.report);
            signal.time = Some(now.into());
        }
        let signals = std::mem::take(signals);
        let batch = v1::SignalBatch { seq: self.sent, sent_time: None, signals };
        let message = v1::PushSignalsRequest { message: Some(Wire::Batch(batch)) };
        let bytes = message.encode_to_vec().into();
        if let Some(Wire::Batch(batch)) = message.message {
            self.batches[which].1 = batch.signals;
        }
        bytes
    }

    /// Reports on all of its apps once in each period, evenly; gives how many signals there were, and how many counted.
    pub(crate) async fn report(&mut self, pace: Pace) -> (u64, u64) {
        let (sender, receiver) = mpsc::channel(4);
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        let request = load::say(&load::monitor(self.number), ReceiverStream::new(receiver));
        let call = tokio::spawn(async move {
            grpc.ready().await.unwrap();
            let path = PathAndQuery::from_static("/agentctl.v1.TelemetryService/PushSignals");
            let answer: Bytes =
                grpc.client_streaming(request, path, Raw).await.unwrap().into_inner();
            v1::PushSignalsResponse::decode(answer).unwrap()
        });
        sender.send(load::hello()).await.unwrap();
        let (mut due, mut signals) = (Instant::now(), 0);
        let pause = pace.period / u32::try_from(self.batches.len()).unwrap();
        for _ in 0..pace.rounds {
            for which in 0..self.batches.len() {
                sleep_until(due).await;
                due += pause;
                signals += self.batches[which].1.len() as u64;
                let message = self.message(which);
                sender.send(message).await.unwrap();
            }
            self.report += 1;
        }
        sleep_until(due).await;
        let bye = v1::PushSignalsRequest { message: Some(Wire::Bye(v1::Bye::default())) };
        sender.send(bye.encode_to_vec().into()).await.unwrap();
        drop(sender);
        (signals, call.await.unwrap().accepted)
    }
}
