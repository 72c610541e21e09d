//! Requests that bring signals by HTTP: POST to a door, over HTTP/1.1 or HTTP/2. Who may knock is in the same table as the methods,
//! and is asked before a byte of the body is read.

use std::io::Read as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::CONTENT_ENCODING;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::page::Reader;
use crate::auth::matrix;
use crate::grpc::hooks::{self, BODY_MAX, Hook};
use crate::pages::Answer;

/// Time for a body to come in.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The door a request knocks at, whatever it says that it brings: no method is called by such a path, and what a door cannot read is
/// refused there.
pub(super) fn of(request: &Request<Incoming>) -> Option<Hook> {
    (request.method() == Method::POST).then(|| Hook::at(request.uri().path())).flatten()
}

impl Reader {
    /// Takes in what a request brings.
    pub(super) async fn take(&self, hook: Hook, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let known = self.pages.as_ref().zip(matrix::hook(&path));
        let Some((pages, access)) = known else {
            return Answer::text(StatusCode::NOT_FOUND, "no such page");
        };
        let (parts, body) = request.into_parts();
        let admitted =
            self.authorizer.admit_to(access, &path, &parts.headers, self.peer.ip(), Instant::now());
        let principal = match admitted {
            Ok(Some(principal)) => principal,
            // No door is public.
            Ok(None) => return Answer::text(StatusCode::FORBIDDEN, "a token is needed"),
            Err(status) => return hooks::refused(&status, false),
        };
        let _place = match self.shed.place(&path, principal.name()) {
            Ok(place) => place,
            Err(status) => return hooks::refused(&status, false),
        };
        let encoding =
            parts.headers.get(CONTENT_ENCODING).map_or(&b"identity"[..], |v| v.as_bytes());
        let packed = match encoding {
            b"gzip" => true,
            b"identity" => false,
            _ => {
                let line = "content-encoding must be gzip or identity";
                return Answer::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, line);
            }
        };
        let body = match read(body).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let _turn = pages.turn().await;
        let body = if packed { unpack(&body) } else { Ok(body) };
        match body {
            Ok(body) => pages.take(hook, principal, &parts.headers, body),
            Err(answer) => answer,
        }
    }
}

/// The whole body, within its limits.
async fn read(body: Incoming) -> Result<Bytes, Answer> {
    let late = || Answer::text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    let collected = timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await;
    match collected.map_err(|_elapsed| late())? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_broken) => Err(Answer::text(StatusCode::BAD_REQUEST, "the body broke off")),
    }
}

/// The body as it was before it was packed. A bomb is unpacked no further than the limit.
fn unpack(packed: &[u8]) -> Result<Bytes, Answer> {
    let limit = u64::try_from(BODY_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut unpacked = Vec::new();
    match MultiGzDecoder::new(packed).take(limit).read_to_end(&mut unpacked) {
        Ok(_) if unpacked.len() > BODY_MAX => Err(too_large()),
        Ok(_) => Ok(unpacked.into()),
        Err(_) => Err(Answer::text(StatusCode::BAD_REQUEST, "the body is no gzip")),
    }
}

fn too_large() -> Answer {
    let line = format!("the body is larger than {} MiB", BODY_MAX >> 20);
    Answer::text(StatusCode::PAYLOAD_TOO_LARGE, &line)
}
