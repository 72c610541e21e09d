//! The listening socket that is held for an app.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agentd::act::process::AppProcess;
use agentd::shim::protocol::RefusalCode;
use rustix::process::Signal;

use super::world::{World, gone, running, signal, until};

/// The supervised server is this very test program, asked to run [`supervised_server`].
fn server(world: &World, name: &str) -> AppProcess {
    let program = std::env::current_exe().unwrap();
    let argv = [
        program.to_str().unwrap(),
        "--exact",
        "process::sockets::supervised_server",
        "--nocapture",
    ];
    let mut app = world.app(name, &argv);
    app.env.insert("ROLE".into(), "server".into());
    app.listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    app
}

/// Answers every connection with its pid. Does nothing unless a shim runs it.
#[test]
fn supervised_server() {
    if std::env::var_os("ROLE").is_none() {
        return;
    }
    assert_eq!(std::env::var("LISTEN_PID").unwrap(), std::process::id().to_string());
    assert_eq!(std::env::var("LISTEN_FDS").unwrap(), "1");
    let listener: TcpListener =
        listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap().expect("a socket");
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(format!("{}\n", std::process::id()).as_bytes());
    }
}

fn ask(address: SocketAddr) -> std::io::Result<u32> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(super::world::PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.trim().parse().map_err(std::io::Error::other)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_descriptor_3_and_listen_pid_is_the_apps_own() {
    let mut world = World::new().await;
    let mut app = world.script(
        "web",
        "echo $LISTEN_FDS $((LISTEN_PID - $$)); readlink /proc/$$/fd/3; ls /proc/$$/fd",
    );
    app.listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    world.run(&app).await;
    world.exit().await;
    let log = world.log_contains("web", "3\n").await;
    assert!(log.starts_with("1 0\nsocket:["), "{log}");
    assert!(log.ends_with("]\n0\n1\n2\n3\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_the_socket_and_either_answers() {
    let world = World::new().await;
    let app = server(&world, "web");
    let first = world.run(&app).await;
    world.host.ensure(&app, 1).await.unwrap();
    let second = world.host.start("web", 1, "first", None).await.unwrap();
    let address = world.host.listen_address("web").unwrap();
    assert!([first.pid, second.pid].contains(&ask(address).unwrap()));
    signal(first.pid, Signal::KILL);
    gone(first.pid).await;
    for _ in 0..5 {
        assert_eq!(ask(address).unwrap(), second.pid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_refuse_nobody() {
    let mut world = World::new().await;
    let app = server(&world, "web");
    let mut fence = world.run(&app).await;
    let address = world.host.listen_address("web").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (refused, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, refused, served) = (stop.clone(), refused.clone(), served.clone());
            std::thread::Builder::new()
                .spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        match ask(address) {
                            Ok(_) => served.fetch_add(1, Ordering::SeqCst),
                            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                                refused.fetch_add(1, Ordering::SeqCst)
                            }
                            // Cut off in the middle by the kill: not what is promised.
                            Err(_) => 0,
                        };
                    }
                })
                .unwrap()
        })
        .collect();
    for round in 0..20 {
        let before = served.load(Ordering::SeqCst);
        until("answers", || (served.load(Ordering::SeqCst) > before + 5).then_some(())).await;
        signal(fence.pid, Signal::KILL);
        world.exit().await;
        fence = world.host.start("web", 0, &format!("r{round}"), Some(fence)).await.unwrap();
    }
    let before = served.load(Ordering::SeqCst);
    until("answers", || (served.load(Ordering::SeqCst) > before + 5).then_some(())).await;
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(refused.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_outlives_agentd_and_every_instance() {
    let mut world = World::new().await;
    let app = server(&world, "web");
    let fence = world.run(&app).await;
    let address = world.host.listen_address("web").unwrap();
    world.agentd_dies().await;
    signal(fence.pid, Signal::KILL);
    gone(fence.pid).await;
    let waiting = TcpStream::connect(address).expect("nobody is there and nobody is refused");
    world.agentd_comes_back().await;
    world.host.ensure(&app, 0).await.unwrap();
    assert_eq!(world.host.listen_address("web"), Some(address), "the same socket");
    let next = world.host.start("web", 0, "next", Some(fence)).await.unwrap();
    assert_eq!(ask(address).unwrap(), next.pid);
    let mut text = String::new();
    (&waiting).read_to_string(&mut text).unwrap();
    assert_eq!(text.trim(), next.pid.to_string(), "the early caller is served late");
    world.remember_cgroups();
    world.host.remove_app("web", Duration::from_secs(5)).await.unwrap();
    until("the socket to be closed", || ask(address).is_err().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_found_again_in_the_app_when_agentd_and_shim_were_killed() {
    let mut world = World::new().await;
    let app = server(&world, "web");
    let fence = world.run(&app).await;
    let address = world.host.listen_address("web").unwrap();
    let shim = world.view("web").shim_pid;
    world.agentd_dies().await;
    signal(shim, Signal::KILL);
    gone(shim).await;
    assert_eq!(ask(address).unwrap(), fence.pid, "the app serves on alone");
    world.agentd_comes_back().await;
    world.host.ensure(&app, 0).await.unwrap();
    assert_eq!(world.host.listen_address("web"), Some(address));
    signal(fence.pid, Signal::KILL);
    world.exit().await;
    let next = world.host.start("web", 0, "next", Some(fence)).await.unwrap();
    assert_eq!(ask(address).unwrap(), next.pid);
    assert!(running(next.pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named() {
    let world = World::new().await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let mut app = server(&world, "web");
    app.listen = Some(address);
    let error = world.host.ensure(&app, 0).await.unwrap_err();
    assert_eq!(error.to_string(), format!("address {address} cannot be bound for app `web`"));
    let error = world.host.start("web", 0, "x", None).await.unwrap_err();
    assert!(!error.is_refusal(RefusalCode::NoListener));
}
