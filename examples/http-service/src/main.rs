//! A key-value service over HTTP: TinyLSM, whose calls block, behind an async server.
//!
//! Shows `spawn_blocking` around every call that may wait for the disk, values that go out without a copy, durability chosen
//! by each request, listings by pages, errors told by what the client can do about them, and a database that is closed
//! when the server is told to stop.
//!
//! ```text
//! cargo run --manifest-path examples/http-service/Cargo.toml -- DIRECTORY [ADDRESS]
//!
//! curl -X PUT --data red 'localhost:8080/keys/apple?durability=os'    # disk (the default), os or none
//! curl localhost:8080/keys/apple
//! curl 'localhost:8080/keys?prefix=a&limit=10'                        # {"keys":["apple"],"next":null}
//! curl -X DELETE localhost:8080/keys/apple
//! ```
//!
//! `cargo test` in this directory starts it, uses it, stops it and starts it again.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Json, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::ffi::OsString;
use tinylsm::{Db, Durability, ErrorKind, Keyspace};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

/// Longest value that is taken; the engine would take 64 MiB.
const VALUE_LEN_BYTES_MAX: usize = 4 << 20;
/// Most keys of one page.
const PAGE_KEYS_MAX: usize = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = arguments.next().ok_or("usage: tinylsm-http-service DIRECTORY [ADDRESS]")?;
    let address = arguments.next().map_or(Ok("127.0.0.1:8080".to_owned()), OsString::into_string);
    let address = address.map_err(|_| "the address is not UTF-8")?;

    let db = spawn_blocking(|| Db::open(directory)).await??;
    let keys = db.open_keyspace("keys", Default::default())?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, service(keys)).with_graceful_shutdown(told_to_stop()).await?;

    // Every request is answered. Closing makes durable what was written with less, and tells if that fails.
    spawn_blocking(|| db.close()).await??;
    println!("closed");
    Ok(())
}

fn service(keys: Keyspace) -> Router {
    Router::new()
        .route("/keys", get(list))
        .route("/keys/{*key}", get(read).put(write).delete(delete))
        .layer(DefaultBodyLimit::max(VALUE_LEN_BYTES_MAX))
        .with_state(keys)
}

async fn read(State(keys): State<Keyspace>, Path(key): Path<String>) -> Result<Response, Failure> {
    let value = blocking(move || keys.get(key)).await?;
    // Goes on sharing the memory that the engine read it into.
    Ok(value.map_or(StatusCode::NOT_FOUND.into_response(), |value| Bytes::from(value).into_response()))
}

async fn write(
    State(keys): State<Keyspace>,
    Path(key): Path<String>,
    Query(how): Query<How>,
    value: Bytes,
) -> Result<StatusCode, Failure> {
    blocking(move || keys.put_with(key, value, how.durability)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn delete(
    State(keys): State<Keyspace>,
    Path(key): Path<String>,
    Query(how): Query<How>,
) -> Result<StatusCode, Failure> {
    blocking(move || keys.delete_with(key, how.durability)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(State(keys): State<Keyspace>, Query(page): Query<Page>) -> Result<Json<Listing>, Failure> {
    blocking(move || {
        let mut entries = keys.prefix(&page.prefix)?;
        if let Some(from) = page.from {
            entries.seek(from)?;
        }
        let mut found = entries.map(|entry| Ok(String::from_utf8_lossy(&entry?.0).into_owned()));
        let keys = found.by_ref().take(page.limit.min(PAGE_KEYS_MAX)).collect::<tinylsm::Result<_>>()?;
        Ok(Json(Listing { keys, next: found.next().transpose()? }))
    })
    .await
}

#[derive(Deserialize)]
struct How {
    #[serde(default, with = "Survives")]
    durability: Durability,
}

/// The values of `durability` in a request.
#[derive(Deserialize)]
#[serde(remote = "Durability", rename_all = "lowercase")]
enum Survives {
    Disk,
    Os,
    None,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    prefix: String,
    /// The first key of the page, which the page before named as `next`.
    from: Option<String>,
    #[serde(default = "page_keys")]
    limit: usize,
}

fn page_keys() -> usize {
    100
}

#[derive(Serialize)]
struct Listing {
    keys: Vec<String>,
    next: Option<String>,
}

/// Does what may wait for the disk on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> tinylsm::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    spawn_blocking(work).await.expect("the engine does not panic").map_err(Failure)
}

/// An error of the engine as an answer.
struct Failure(tinylsm::Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = status_of(self.0.kind());
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            // Names files: for the operator, not for the client.
            eprintln!("{}", self.0);
            return status.into_response();
        }
        (status, format!("{}\n", self.0)).into_response()
    }
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        // The same request may succeed later: after a moment, once a descriptor is free, or from the next process.
        ErrorKind::Busy | ErrorKind::Exhausted | ErrorKind::ReadOnly | ErrorKind::Closed => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Waits for Ctrl-C or, on Unix, for the signal that service managers send.
async fn told_to_stop() {
    let interrupted = async { tokio::signal::ctrl_c().await.expect("the signal can be waited for") };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminated = signal(SignalKind::terminate()).expect("the signal can be waited for");
        tokio::select! {
            () = interrupted => {}
            _ = terminated.recv() => {}
        }
    }
    #[cfg(not(unix))]
    interrupted.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_the_client_can_do() {
        assert_eq!(status_of(ErrorKind::InvalidArgument), StatusCode::BAD_REQUEST);
        assert_eq!(status_of(ErrorKind::Busy), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status_of(ErrorKind::Closed), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status_of(ErrorKind::NoSpace), StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(status_of(ErrorKind::Corruption), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
