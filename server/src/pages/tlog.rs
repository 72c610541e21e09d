//! The proof log at the paths of C2SP tlog-tiles: one checkpoint that changes, and tiles that never do.

use agentd_core::tlog::tile::Tile;
use http::StatusCode;

use super::{Answer, TEXT};
use crate::journal;
use crate::tlog::{ReadError, Tlog};

/// A checkpoint is worth something while it is new.
const CHECK_AGAIN: &str = "no-cache";
/// What a name stands for never changes. Only the cache of the one reader keeps it: reading takes a token.
const FOR_EVER: &str = "private, max-age=31536000, immutable";

/// The last checkpoint that was made.
pub(super) fn checkpoint(tlog: &Tlog) -> Answer {
    match tlog.published() {
        None => Answer::text(StatusCode::NOT_FOUND, "no checkpoint has been made yet"),
        Some(published) => Answer {
            status: StatusCode::OK,
            content_type: TEXT,
            cache: CHECK_AGAIN,
            retry_after: None,
            body: published.note.to_string().into(),
        },
    }
}

/// The tile at `path`.
pub(super) async fn tile(tlog: &Tlog, path: &str) -> Answer {
    let Some(tile) = path.strip_prefix('/').and_then(|path| path.parse::<Tile>().ok()) else {
        return Answer::text(StatusCode::NOT_FOUND, "not the path of a tile");
    };
    let reader = tlog.clone();
    match tokio::task::spawn_blocking(move || reader.tile(tile)).await {
        Ok(Ok(Some(body))) => Answer {
            status: StatusCode::OK,
            content_type: "application/octet-stream",
            cache: FOR_EVER,
            retry_after: None,
            body,
        },
        Ok(Ok(None)) => Answer::text(StatusCode::NOT_FOUND, "the last checkpoint has no such tile"),
        Ok(Err(ReadError::Journal(journal::Error::Pruned { oldest }))) => {
            let text = format!("entries before {oldest} are no longer kept here");
            Answer::text(StatusCode::GONE, &text)
        }
        Ok(Err(error)) => {
            tracing::error!(%error, %tile, "a tile of the proof log cannot be read");
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, "the tile cannot be read now")
        }
        Err(_panicked) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "reading panicked"),
    }
}
