//! The records of a log that lies here: an export, or a data directory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use agentd_core::chain::LINE_BYTES_MAX;
use agentd_core::record::Record;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::server::{self, Bodies};

/// Every record of a log, in its order.
pub(super) fn each(log: &Path, take: &mut dyn FnMut(Record)) -> Result<(), Failure> {
    let mut fault = None;
    let mut line = |number: u64, bodies: &Bodies, line: &[u8]| {
        if fault.is_some() || line.is_empty() {
            return;
        }
        match bodies.record(line) {
            Ok(record) => take(record),
            Err(error) => fault = Some((number, crate::failure::chain(&error))),
        }
    };
    if log.is_dir() {
        let bodies = Bodies::of_log(log);
        let read = server::read_log(log, &mut |number, entry| line(number, &bodies, entry))?;
        fault = fault.or(read.fault);
    } else {
        lines(log, &mut line).map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let exit = if missing { Exit::NotFound } else { Exit::Failure };
            Failure::because(exit, &format!("cannot read `{}`", log.display()), &error)
        })?;
    }
    match fault {
        None => Ok(()),
        Some((number, what)) => {
            let place = format!("`{}` line {number}: {what}", log.display());
            Err(Failure::usage(place).hint("`agentctl proof verify FILE` says more about a log"))
        }
    }
}

fn lines(log: &Path, take: &mut dyn FnMut(u64, &Bodies, &[u8])) -> io::Result<()> {
    let bodies = Bodies::beside(log);
    let mut input = BufReader::new(File::open(log)?);
    // One byte more than the longest line and its end.
    let room = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input.by_ref().take(room).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        take(number, &bodies, line.strip_suffix(b"\n").unwrap_or(&line));
    }
    Ok(())
}
