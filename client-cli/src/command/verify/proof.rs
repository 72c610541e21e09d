//! The proof log verifies, on three ways; and what is changed in it is noticed.

use agentctl_api::v1;

use super::{Suite, Trial, on_scratch};
use crate::command::proof::{self, verify};
use crate::command::scratch::{Rules, Scratch};
use crate::command::{Context, demo};
use crate::failure::Failure;
use crate::view::proof::VerificationView;

pub(super) async fn run(context: &mut Context) -> Result<Trial, Failure> {
    let mut trial = Trial::new(Suite::Proof);
    let rules = Rules { policy: demo::POLICY, freeze: true, ..Rules::default() };
    on_scratch(rules, context, async |stage, context| {
        trial.rehearse("crash", "something to prove", stage, context).await?;
        let served = by_the_server(stage).await?;
        let lines = proof::download(&stage.operator, 1, served.last_seq, None).await?;
        let own = check(&lines)?;
        let sound = |view: &VerificationView| {
            view.valid
                && view.decisions_different == Some(0)
                && view.decisions_rechecked.is_some_and(|n| n > 0)
        };
        trial.found(
            "by the server",
            "the chain is sound, every decision comes out the same",
            told(&served),
            sound(&served),
        );
        trial.found(
            "by the export",
            "the same, without trusting the server",
            told(&own),
            sound(&own),
        );
        let same = own.head_hash == served.head_hash && own.last_seq == served.last_seq;
        trial.found(
            "same head",
            "both end in the same hash",
            format!("#{} {}", own.last_seq, own.head_hash),
            same,
        );
        for (what, change) in CHANGES {
            let changed = check(&change(&lines))?;
            // Cutting off the end is not noticed by a chain alone; everything else must be.
            let (got, noticed) = match &changed.fault {
                Some(fault) => (format!("noticed at #{}", fault.seq), true),
                None => (told(&changed), !changed.valid),
            };
            trial.found(what, "noticed", got, noticed);
        }
        Ok(())
    })
    .await?;
    Ok(trial)
}

async fn by_the_server(stage: &Scratch) -> Result<VerificationView, Failure> {
    let session = &stage.operator;
    let request =
        session.unary(v1::VerifyProofRequest { recheck_decisions: true, ..Default::default() });
    let answer = session.proof().verify_proof(request).await.map_err(|s| session.failure(s))?;
    Ok(verify::from_server(&answer.into_inner(), true))
}

fn check(lines: &[u8]) -> Result<VerificationView, Failure> {
    let mut lines = lines;
    Ok(verify::verify_lines(&mut lines, true)?)
}

fn told(view: &VerificationView) -> String {
    let (entries, again) = (view.entry_count, view.decisions_rechecked.unwrap_or(0));
    match &view.fault {
        Some(fault) => format!("#{}: {}", fault.seq, fault.summary),
        None => format!("{entries} entries, {again} decisions judged again"),
    }
}

/// Something done to an export.
type Change = (&'static str, fn(&[u8]) -> Vec<u8>);

/// What must not go unnoticed.
const CHANGES: [Change; 3] = [
    ("a changed byte", |lines| {
        let mut changed = lines.to_vec();
        let middle = changed.len() / 2;
        // A digit of a number stays one, so that the line is still JSON.
        let digit = changed.iter_mut().skip(middle).find(|byte| byte.is_ascii_digit());
        if let Some(digit) = digit {
            *digit = if *digit == b'1' { b'2' } else { b'1' };
        }
        changed
    }),
    ("a missing line", |lines| {
        let all: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
        let middle = all.len() / 2;
        let kept = all.iter().enumerate().filter(|(at, _)| *at != middle);
        kept.flat_map(|(_, line)| line.to_vec()).collect()
    }),
    ("two exchanged lines", |lines| {
        let mut all: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
        let middle = all.len() / 2;
        if middle > 0 {
            all.swap(middle - 1, middle);
        }
        all.concat()
    }),
];
