//! The same from OpenTelemetry: a hundred resources with six gauges each in an export, beside a receiver that throws it away.

use std::time::Duration;

use crate::bed::Process;
use crate::load::{self, APPS, Export};
use crate::native::join;
use crate::table::{self, Passes};

const LANES: usize = 4;
const GAUGES: usize = 6;
const PASSES: usize = 11;
/// Exports of one sender in one pass: what its principal may send at once.
const EXPORTS: usize = 200;
const REST: Duration = Duration::from_millis(400);

async fn exports(address: &str) -> Vec<Export> {
    let mut exports = Vec::new();
    for n in 0..LANES {
        exports.push(Export::open(address, n, &load::apps_of(n)).await);
    }
    exports
}

/// Microseconds of the server's processor per data point.
async fn pass(server: &mut Process, exports: &[Export]) -> f64 {
    let before = server.used().cpu_ns;
    join(exports.iter().map(|export| export.push(EXPORTS))).await;
    let used = server.used().cpu_ns - before;
    used as f64 / (exports.len() * EXPORTS * APPS * GAUGES) as f64 / 1_000.0
}

pub(crate) fn measure(_args: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    let apps = (LANES * APPS).to_string();
    let mut agentd = Process::start(&["agentd", dir.path().to_str().unwrap(), &apps]);
    let mut null = Process::start(&["null"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    table::header("us/point");
    runtime.block_on(async {
        let (ours, theirs) = (exports(&agentd.address).await, exports(&null.address).await);
        let (mut own, mut reference) = (Passes::default(), Passes::default());
        for n in 0..=PASSES {
            let (us, limit) = (pass(&mut agentd, &ours).await, pass(&mut null, &theirs).await);
            if n > 0 {
                own.push(us);
                reference.push(limit);
            }
            tokio::time::sleep(REST).await;
        }
        let case = "OTLP, 100 x 6 gauges, beside opentelemetry-proto alone";
        table::compare(case, &own, &reference, 0.30);
    });
}
