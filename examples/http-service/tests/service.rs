//! Starts the service as a process, uses it as a client does, stops it and starts it again.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use ureq::Agent;
use ureq::http::Response;

struct Service {
    process: Child,
    output: BufReader<ChildStdout>,
    keys: String,
    agent: Agent,
}

impl Service {
    fn start(directory: &Path) -> Service {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tinylsm-http-service"))
            .arg(directory)
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it can be read");
        let address = line.trim().strip_prefix("listening on ").expect("it says where");
        let config = Agent::config_builder().http_status_as_error(false);
        Service { process, output, keys: format!("http://{address}/keys"), agent: config.build().into() }
    }

    fn get(&self, rest: &str) -> (u16, String) {
        told(self.agent.get(format!("{}{rest}", self.keys)).call())
    }

    fn put(&self, rest: &str, value: &[u8]) -> u16 {
        told(self.agent.put(format!("{}{rest}", self.keys)).send(value)).0
    }

    fn delete(&self, rest: &str) -> u16 {
        told(self.agent.delete(format!("{}{rest}", self.keys)).call()).0
    }

    fn list(&self, rest: &str) -> serde_json::Value {
        let (status, body) = self.get(rest);
        assert_eq!(status, 200);
        serde_json::from_str(&body).expect("a listing is JSON")
    }

    /// Stops it as a service manager does.
    fn stop(mut self) {
        let killed =
            Command::new("kill").arg(self.process.id().to_string()).status().expect("it can be told");
        assert!(killed.success());
        assert!(self.process.wait().expect("it ends").success());
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it can be read");
        assert_eq!(line, "closed\n");
    }
}

/// A test that fails leaves no process behind.
impl Drop for Service {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            self.process.kill().expect("it can be killed");
        }
    }
}

fn told(answer: Result<Response<ureq::Body>, ureq::Error>) -> (u16, String) {
    let mut answer = answer.expect("it answers");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("it answers in text"))
}

#[test]
fn keys_are_written_read_listed_and_deleted() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let service = Service::start(directory.path());
    assert_eq!(service.get("/apple").0, 404);
    assert_eq!(service.put("/apple", b"green"), 204);
    assert_eq!(service.put("/apple?durability=os", b"red"), 204);
    assert_eq!(service.put("/a%20b/c?durability=none", b""), 204);
    assert_eq!(service.get("/apple"), (200, "red".to_owned()));
    assert_eq!(service.get("/a%20b/c"), (200, String::new()));
    assert_eq!(service.delete("/apple"), 204);
    assert_eq!(service.get("/apple").0, 404);
    service.stop();
}

#[test]
fn listings_come_by_pages() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let service = Service::start(directory.path());
    for number in 0..5 {
        assert_eq!(service.put(&format!("/user:{number}?durability=none"), b"x"), 204);
    }
    assert_eq!(service.put("/zebra", b"x"), 204);
    let mut pages = Vec::new();
    let mut from = String::new();
    loop {
        let page = service.list(&format!("?prefix=user:&limit=2{from}"));
        pages.push(page["keys"].to_string());
        let Some(next) = page["next"].as_str() else { break };
        from = format!("&from={next}");
    }
    assert_eq!(pages, [r#"["user:0","user:1"]"#, r#"["user:2","user:3"]"#, r#"["user:4"]"#]);
    assert_eq!(service.list("")["keys"].as_array().map(Vec::len), Some(6));
    service.stop();
}

#[test]
fn what_is_wrong_with_a_request_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let service = Service::start(directory.path());
    assert_eq!(service.put("/apple?durability=stone", b"red"), 400);
    assert_eq!(service.get("?limit=many").0, 400);
    assert_eq!(service.get("/apple").0, 404);
    service.stop();
}

#[test]
fn stopping_closes_the_database_so_that_nothing_is_lost() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let service = Service::start(directory.path());
    assert_eq!(service.put("/apple?durability=none", b"red"), 204);
    service.stop();
    let service = Service::start(directory.path());
    assert_eq!(service.get("/apple"), (200, "red".to_owned()));
    service.stop();
}
