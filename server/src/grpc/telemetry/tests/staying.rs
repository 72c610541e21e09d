//! Monitors that stay on a stream that acknowledges as it goes.

use tokio::task::JoinHandle;

use super::*;

/// One stream, as the monitor sees it.
struct Stream {
    messages: mpsc::Sender<Result<Bytes, Status>>,
    answers: mpsc::Receiver<Result<v1::StreamSignalsResponse, Status>>,
    served: JoinHandle<()>,
}

impl Stream {
    fn open(server: &Server) -> Self {
        Self::over(server, None)
    }

    /// One whose connection may grow old.
    fn over(server: &Server, leaving: Option<Leaving>) -> Self {
        let (messages, sent) = mpsc::channel(1);
        let (told, answers) = mpsc::channel(stream::ANSWERS);
        let services = server.services.clone();
        let seat = services.intake.take_seat("ci", 0).unwrap();
        let served = server.services.tasks.spawn("test", OnFailure::Log, async move {
            let sent = ReceiverStream::new(sent);
            stream::serve(&services, monitor(), (seat, leaving), sent, &told).await;
        });
        Self { messages, answers, served }
    }

    async fn send(&self, message: Result<Bytes, Status>) {
        self.messages.send(message).await.expect("the server reads");
    }

    async fn answer(&mut self) -> Result<v1::StreamSignalsResponse, Status> {
        self.answers.recv().await.expect("an answer")
    }

    /// The first answer that acknowledges `seq`.
    async fn acked(&mut self, seq: u64) -> v1::StreamSignalsResponse {
        loop {
            let answer = self.answer().await.unwrap();
            if answer.acked_seq >= seq {
                return answer;
            }
        }
    }
}

#[tokio::test]
async fn a_monitor_that_stays_is_told_what_the_server_has_and_goes_on_behind_it_after_a_reconnect()
{
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let mut first = Stream::open(&server);
    first.send(hello(7)).await;
    assert_eq!(first.answer().await.unwrap().acked_seq, 0, "never heard of");
    for seq in 1..=3 {
        first.send(batch(seq, vec![good(&server, "web")])).await;
    }
    let told = first.acked(3).await;
    assert_eq!((told.accepted, told.rejected, told.closed), (3, 0, false));
    assert!(told.server_time.is_some());
    drop(first.messages);
    first.served.await.unwrap();

    let mut second = Stream::open(&server);
    second.send(hello(7)).await;
    assert_eq!(second.answer().await.unwrap().acked_seq, 3, "where to go on");
    second.send(batch(3, vec![good(&server, "web")])).await;
    second.send(batch(4, vec![good(&server, "web")])).await;
    second.send(bye()).await;
    let last = second.acked(4).await;
    assert_eq!((last.accepted, last.duplicates, last.missed), (1, 1, 0), "of this stream");
    assert!(last.closed, "the goodbye is answered");
    assert!(second.answers.recv().await.is_none(), "and nothing comes after it");
    assert_eq!(limits(&server)["monitors_lost"], 1, "the first one left without a word");
}

#[tokio::test]
async fn what_is_rejected_is_told_at_once_and_once() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let mut stream = Stream::open(&server);
    stream.send(hello(7)).await;
    stream.answer().await.unwrap();
    stream.send(batch(1, vec![good(&server, "nobody"), good(&server, "web")])).await;
    let told = stream.acked(1).await;
    let [rejection] = told.rejections.as_slice() else { panic!("{told:?}") };
    assert_eq!((&*rejection.reason, rejection.seq, rejection.index), ("UNKNOWN_APP", 1, 0));
    stream.send(batch(2, vec![good(&server, "web")])).await;
    let told = stream.acked(2).await;
    assert_eq!((told.rejected, told.rejections.len()), (1, 0), "counted, and not told again");
}

#[tokio::test]
async fn a_monitor_that_reads_no_answers_is_served_like_any_other() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let mut mute = Stream::open(&server);
    mute.send(hello(7)).await;
    // More answers become due than can wait: each batch has something to tell at once.
    for seq in 1..=60 {
        mute.send(batch(seq, vec![good(&server, "nobody"), good(&server, "web")])).await;
    }
    mute.send(bye()).await;
    let last = loop {
        let answer = mute.answer().await.unwrap();
        if answer.closed {
            break answer;
        }
    };
    assert_eq!((last.acked_seq, last.accepted, last.rejected), (60, 60, 60), "cumulative");
}

#[tokio::test]
async fn a_monitor_is_told_that_its_readings_come_faster_than_decisions() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let start = server.services.clock.now_ms() - 60_000;
    let mut stream = Stream::open(&server);
    stream.send(hello(7)).await;
    // All of one batch, so that no decision comes between them.
    let signals = (0..500).map(|n| v1::Signal { time: time(start + n), ..good(&server, "web") });
    stream.send(batch(1, signals.collect())).await;
    let told = stream.acked(1).await;
    assert_eq!(told.accepted, 500);
    assert!(told.superseded > 400, "{} of 499", told.superseded);
    assert_eq!(limits(&server)["signals_superseded"], told.superseded);
}

#[tokio::test]
async fn a_stream_that_is_wrong_ends_with_the_status_that_says_why() {
    let server = Server::start(Env::Dev);
    for (sent, expected) in [
        (vec![bye()], "HELLO_MISSING"),
        (vec![hello(7), hello(7)], "HELLO_REPEATED"),
        (vec![hello(7), Ok(Bytes::new())], "MESSAGE_UNKNOWN"),
        (vec![hello(0)], "INVALID_ARGUMENT"),
    ] {
        let mut stream = Stream::open(&server);
        for message in sent {
            stream.send(message).await;
        }
        let status = loop {
            if let Err(status) = stream.answer().await {
                break status;
            }
        };
        assert_eq!(reason(&status), expected);
        stream.served.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_stops_acknowledges_what_it_took_and_says_when_to_come_again() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let mut stream = Stream::open(&server);
    stream.send(hello(7)).await;
    stream.send(batch(1, vec![good(&server, "web")])).await;
    stream.acked(1).await;
    server.services.tasks.stop();
    let status = loop {
        match stream.answer().await {
            Ok(told) => assert_eq!(told.acked_seq, 1),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (StatusCode::Unavailable, "DRAINING"));
    assert!(status.get_details_retry_info().is_some());
}

/// So it ends when a token is revoked: the edge lets go of the answers, also of a monitor that reads none.
#[tokio::test]
async fn a_stream_whose_answers_were_let_go_takes_no_more_signals() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let mut stream = Stream::open(&server);
    stream.send(hello(7)).await;
    stream.send(batch(1, vec![good(&server, "web")])).await;
    stream.acked(1).await;
    let Stream { messages, answers, served } = stream;
    drop(answers);
    let ended = tokio::time::timeout(Duration::from_secs(60), served).await;
    ended.expect("it ends though the monitor stays").unwrap();
    let late = messages.send(batch(2, vec![good(&server, "web")])).await;
    assert!(late.is_err(), "nobody reads any more");
    assert_eq!(server.services.intake.counters.accepted(), 1);
}

#[tokio::test]
async fn while_signals_wait_for_their_turn_the_stream_and_others_are_alive() {
    let mut server = Server::start(Env::Dev);
    server.services.intake = Arc::new(intake::Intake::with_turns(1));
    server.onboard("web").await;
    let mut stream = Stream::open(&server);
    stream.send(hello(7)).await;
    stream.answer().await.unwrap();
    let shared = Arc::clone(&server.services.intake);
    let busy = shared.turn().await;
    stream.send(batch(1, vec![good(&server, "web")])).await;
    // The loop answers beside it, as it does for who pauses or approves.
    let apps = server.services.agent.query(|view| view.state.apps.len()).await;
    assert_eq!((apps.unwrap(), shared.counters.accepted()), (1, 0));
    drop(busy);
    assert_eq!(stream.acked(1).await.accepted, 1);
}

#[tokio::test]
async fn a_monitor_whose_connection_is_old_is_sent_to_another_one_and_is_not_lost() {
    let server = Server::start(Env::Dev);
    server.onboard("web").await;
    let (leaving, leave) = Leaving::pair();
    let mut stream = Stream::over(&server, Some(leaving.clone()));
    stream.send(hello(7)).await;
    stream.send(batch(1, vec![good(&server, "web")])).await;
    stream.acked(1).await;
    let (messages, sent) = mpsc::channel(3);
    for message in [hello(8), batch(1, vec![good(&server, "web")])] {
        messages.send(message).await.expect("room");
    }
    let pushed = push(&server.services, monitor(), Some(leaving), ReceiverStream::new(sent));
    let left = async {
        heard(&server, 2).await;
        leave.cancel();
    };
    let (pushed, ()) = tokio::join!(pushed, left);
    let stayed = loop {
        match stream.answer().await {
            Ok(answer) => assert_eq!(answer.acked_seq, 1, "nothing need be sent again"),
            Err(status) => break status,
        }
    };
    for status in [pushed.unwrap_err(), stayed] {
        assert_eq!(
            (status.code(), reason(&status)),
            (StatusCode::Unavailable, "CONNECTION_AGE".into())
        );
    }
    stream.served.await.unwrap();
    assert_eq!(limits(&server)["monitors_lost"], 0, "we sent them away");
}
