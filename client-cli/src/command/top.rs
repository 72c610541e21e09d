//! `agentctl top`: apps, decisions, approvals, the bus and the agent on one screen, as they change.
//!
//! Nothing is asked for again and again: what is shown comes from the streams of the server, and the screen is drawn when something
//! changed, at most four times a second for data and at once for a key.

use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event as Terminal, KeyEventKind};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

mod draw;
mod feed;
mod keys;
mod model;

use feed::Order;
use model::{Event, Model, Rights};

/// Shortest time between two drawings because of data.
const FRAME: Duration = Duration::from_millis(250);
/// Longest time between two drawings: the age of what is shown is on the screen.
const IDLE: Duration = Duration::from_secs(5);
/// Events that may wait for the screen.
const WAITING: usize = 64;
/// How long the reader of keys waits before it looks whether it is still needed.
const KEY_WAIT: Duration = Duration::from_millis(250);

/// Watch apps, decisions and approvals on one screen; approve, reject and pause from it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl top
  agentctl top --read-only
  agentctl top --context stage

Keys: 1 to 5 or Tab change the page, `:` jumps to one by name, `/` filters, Enter opens, `?` shows
all keys, q quits. Approving, rejecting and pausing ask for a reason first; what the token may not
do is not offered. With another format than table one picture of everything is written, and the
command ends.")]
pub struct TopArgs {}

pub(super) async fn run(_: TopArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let who = session
        .identity()
        .who_am_i(session.unary(agentctl_api::v1::WhoAmIRequest {}))
        .await
        .map_err(|s| session.failure(s))?
        .into_inner();
    let rights = Rights::of(&who, context.global.read_only);
    let mut model = Model::new(session.address().value.clone(), rights);
    if !context.output.is_table() {
        return feed::picture(&session, context).await;
    }
    if !output::can_draw() {
        return Err(Failure::usage("stdout is no terminal")
            .hint("`agentctl status` and `agentctl watch` write to pipes and files"));
    }
    let (events, received) = mpsc::channel(WAITING);
    let (orders, asked) = mpsc::channel(4);
    let mut terminal = ratatui::try_init()?;
    let ended = tokio::select! {
        ended = screen(&mut terminal, &mut model, received, orders) => ended,
        failure = feed::all(&session, &events, asked) => Err(failure),
        failure = keyboard(&events) => Err(failure),
    };
    ratatui::try_restore()?;
    ended
}

/// Takes what comes and draws it, until it is told to quit.
async fn screen(
    terminal: &mut ratatui::DefaultTerminal,
    model: &mut Model,
    mut events: mpsc::Receiver<Event>,
    orders: mpsc::Sender<Order>,
) -> Result<Exit, Failure> {
    let mut drawn = Instant::now();
    terminal.draw(|frame| draw::all(frame, model))?;
    let mut due = drawn + IDLE;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = tokio::time::sleep_until(due) => {
                terminal.draw(|frame| draw::all(frame, model))?;
                drawn = Instant::now();
                due = drawn + IDLE;
                continue;
            }
        };
        let Some(event) = event else { return Ok(Exit::Ok) };
        let at_once = matches!(event, Event::Key(_) | Event::Resized);
        match model.take(event) {
            model::Next::Quit => return Ok(Exit::Ok),
            model::Next::Order(order) => {
                if orders.try_send(order).is_err() {
                    model.say("✖ the last one is still on its way".to_owned());
                }
            }
            model::Next::Nothing => {}
        }
        // A person waits for a key to show; data can wait for its frame.
        due = if at_once { Instant::now() } else { due.min(drawn + FRAME) };
    }
}

/// Reads keys on a thread of its own, because a terminal is read by waiting.
async fn keyboard(events: &mpsc::Sender<Event>) -> Failure {
    let events = events.clone();
    let reading = tokio::task::spawn_blocking(move || {
        while !events.is_closed() {
            if !event::poll(KEY_WAIT)? {
                continue;
            }
            let event = match event::read()? {
                Terminal::Key(key) if key.kind == KeyEventKind::Press => Event::Key(key),
                Terminal::Resize(..) => Event::Resized,
                _ => continue,
            };
            if events.blocking_send(event).is_err() {
                break;
            }
        }
        std::io::Result::Ok(())
    });
    match reading.await {
        Ok(Ok(())) => Failure::silent(Exit::Ok),
        Ok(Err(error)) => Failure::because(Exit::Failure, "cannot read keys", &error),
        Err(error) => Failure::because(Exit::Failure, "cannot read keys", &error),
    }
}
