//! How the app is started.

use std::fs;
use std::io;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Incarnation, Refusal, Supervisor};
use crate::shim::born::{self, Header};
use crate::shim::prepare::{self, exec_error};
use crate::shim::protocol::{Config, Fence, Message, RefusalCode, Reply};
use crate::shim::spawn::{Image, spawn};
use crate::shim::{chain, read_config};

impl Supervisor {
    pub(super) fn start(
        &mut self,
        action_id: String,
        expect: Option<&Fence>,
    ) -> Result<Reply, Refusal> {
        if let Some(latest) = self.latest.as_ref().filter(|latest| latest.action_id == action_id) {
            return Ok(Reply::Started { fence: latest.fence.clone(), repeated: true });
        }
        self.check_fence(expect)?;
        if self.stopping.is_some() || self.ending {
            return Err(Refusal(RefusalCode::Stopping, "the app is being stopped".to_owned()));
        }
        if let Some(running) = self.running() {
            let text = format!("the app runs as {}", running.fence);
            return Err(Refusal(RefusalCode::AlreadyRunning, text));
        }
        self.clean_up();
        if self.leftover.is_some() {
            let text = "processes of the last incarnation cannot be killed".to_owned();
            return Err(Refusal(RefusalCode::Remains, text));
        }
        let config =
            read_config().map_err(|error| Refusal(RefusalCode::BadConfig, chain(&error)))?;
        self.grace_ms = config.grace_ms;
        self.output.set_limits(config.log);
        let fence = self.launch(action_id, &config)?;
        if let Some(latest) = &self.latest {
            let (action_id, revision) = (latest.action_id.clone(), latest.revision.clone());
            let (fence, at_ms) = (fence.clone(), latest.started_ms);
            self.broadcast(&Message::Started { fence, action_id, revision, at_ms });
        }
        Ok(Reply::Started { fence, repeated: false })
    }

    /// Reads what a start reads and forgets it: while agentd decides nothing waits for that, and a start that follows finds all of
    /// it in the caches.
    pub(super) fn look_ahead(&self) {
        if !self.ending {
            let _ = read_config().map(|config| prepare::prepare(&config));
        }
    }

    /// Returns when the app has been executed.
    fn launch(&mut self, action_id: String, config: &Config) -> Result<Fence, Refusal> {
        let io = |what: &'static str| {
            move |error: io::Error| Refusal(RefusalCode::Io, format!("{what}: {error}"))
        };
        let listener = match (config.listen, &self.listener) {
            (false, _) => None,
            (true, Some(held)) => Some(held.try_clone().map_err(io("listening socket"))?),
            (true, None) => {
                let text = "the app wants a listening socket and none was given".to_owned();
                return Err(Refusal(RefusalCode::NoListener, text));
            }
        };
        let prepared = prepare::prepare(config)
            .map_err(|error| Refusal(RefusalCode::ExecFailed, chain(&error)))?;
        let header = Header {
            boot_id: self.boot_id.clone(),
            action_id: action_id.clone(),
            revision: config.revision.clone(),
            at_ms: self.clock.now_ms(),
        };
        let born = born::begin(&header).map_err(io("note of birth"))?;
        self.laid_out = false;
        let output = self.output.writers().map_err(io("output"))?;
        let path = prepared.path.clone();
        let image = Image {
            path: prepared.path,
            argv: prepared.argv,
            env: prepared.env,
            cwd: prepared.cwd,
            output,
            listener,
            born: Some(born),
            limits: prepared.limits,
            user: config.user,
            confinement: None,
        };
        if let Err(error) = spawn(image) {
            born::abandon();
            let error = exec_error(&path, error);
            return Err(Refusal(RefusalCode::ExecFailed, chain(&error)));
        }
        let note = born::commit().map_err(io("note of birth"))?;
        if let Some(score) = config.limits.oom_score_adj {
            let _ = fs::write(format!("/proc/{}/oom_score_adj", note.fence.pid), score.to_string());
        }
        // Not reaped before the next turn, so the number is still its own even if it has ended already.
        let pid = Pid::from_raw(note.fence.pid.cast_signed());
        let pidfd =
            pid.ok_or(rustix::io::Errno::SRCH).and_then(|p| pidfd_open(p, PidfdFlags::empty()));
        self.latest = Some(Incarnation {
            fence: note.fence.clone(),
            action_id,
            revision: header.revision,
            started_ms: header.at_ms,
            pidfd: Some(
                pidfd.map_err(|error| Refusal(RefusalCode::Io, format!("pidfd: {error}")))?,
            ),
            inherited: false,
        });
        Ok(note.fence)
    }
}
