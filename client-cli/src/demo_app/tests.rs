//! The demo app over real sockets, in this process.

use std::io::Read;
use std::net::Ipv4Addr;

use super::*;

fn app() -> Arc<App> {
    Arc::new(App {
        started: Instant::now(),
        version: "v7".into(),
        ill_until_ms: AtomicU64::new(0),
        leaked: Mutex::default(),
        served: AtomicUsize::new(0),
        busy: Mutex::new(0),
        idle: Condvar::new(),
    })
}

fn get(app: &Arc<App>, target: &str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    caller.write_all(format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    app.begin(listener.accept().unwrap().0).unwrap();
    let mut text = String::new();
    caller.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_is_well_until_told_to_be_ill() {
    let app = app();
    assert!(get(&app, "/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get(&app, "/ill?for_ms=600000").contains("200 OK"));
    assert!(get(&app, "/healthz").starts_with("HTTP/1.1 503 "));
    assert!(get(&app, "/ill?for_ms=0").contains("200 OK"));
    assert!(get(&app, "/healthz").contains("200 OK"));
}

#[test]
fn work_burns_cpu_time_and_not_only_wall_time() {
    let before = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    assert!(get(&app(), "/work?ms=60").contains("200 OK"));
    let after = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1_000_000;
    assert!(used >= 60, "{used} ms");
}

#[test]
fn info_names_the_process_and_bad_questions_are_refused() {
    let app = app();
    let info = get(&app, "/info");
    assert!(info.contains(&format!("\"pid\":{}", std::process::id())), "{info}");
    assert!(info.contains("\"version\":\"v7\""), "{info}");
    for (target, status) in
        [("/nope", "404"), ("/work", "400"), ("/leak?mib=x", "400"), ("/exit?code=256", "400")]
    {
        assert!(get(&app, target).starts_with(&format!("HTTP/1.1 {status} ")), "{target}");
    }
}

#[test]
fn draining_waits_for_what_was_begun() {
    let app = app();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    caller.write_all(b"GET /work?ms=100 HTTP/1.1\r\n\r\n").unwrap();
    app.begin(listener.accept().unwrap().0).unwrap();
    app.drain();
    assert_eq!(app.served.load(Ordering::SeqCst), 1);
    let mut text = String::new();
    caller.read_to_string(&mut text).unwrap();
    assert!(text.contains("200 OK"), "{text}");
}
