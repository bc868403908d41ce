//! One function of plain code that blocks: on a thread, in thousands of coroutines on one thread;
//! and its async twin.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Result};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use qio::ChannelExt;
use qio::layer::tls::{self, ClientSettings, SelfSigned, ServerSettings};
use qio::transport::Socket;
use qio_adapters::coroutine::Coroutine;
use qio_adapters::tokio::{AsyncChannel, run};
use qio_testkit::tls::{Local, name};
use qio_testkit::{finished, resident_bytes, scope};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Barrier;
use tokio::task::{JoinSet, LocalSet};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// How many in the ordinary run.
const SOME: u32 = 200;

/// How many in the large one.
const MANY: u32 = 10_000;

/// What each sends and gets back.
const BYTES: usize = 1024;

/// The function: it knows nothing of loops.
fn ask(below: Socket, config: Arc<ClientConfig>, number: u32) -> Result<()> {
    let shaking = tls::client(below, config, name(), None)?;
    let channel = finished(shaking).into_layer(tls::NAME);
    let request = request(number);
    channel.write_all(&request)?;
    let mut answer = [0; BYTES];
    channel.read_exact(&mut answer)?;
    assert!(answer == request, "{number} got the answer of another");
    channel.finish_all(None)?;
    assert!(!channel.read_exact_or_eof(&mut [0])?, "{number} got more");
    Ok(())
}

/// Its async twin.
async fn ask_async(below: Socket, config: Arc<ClientConfig>, number: u32) -> Result<()> {
    let shaking = tls::client(below, config, name(), None)?;
    let mut channel = AsyncChannel::new(run(shaking).await??.into_layer(tls::NAME))?;
    let request = request(number);
    channel.write_all(&request).await?;
    let mut answer = [0; BYTES];
    channel.read_exact(&mut answer).await?;
    assert!(answer == request, "{number} got the answer of another");
    channel.shutdown().await?;
    assert_eq!(channel.read(&mut [0]).await?, 0, "{number} got more");
    Ok(())
}

/// Gives back what comes when all have sent theirs: all of them wait at once.
async fn serve(below: Socket, config: Arc<ServerConfig>, all: Arc<Barrier>) -> Result<()> {
    let shaking = tls::server(below, config, None)?;
    let mut channel = AsyncChannel::new(run(shaking).await??.into_layer(tls::NAME))?;
    let mut request = [0; BYTES];
    channel.read_exact(&mut request).await?;
    all.wait().await;
    channel.write_all(&request).await?;
    channel.shutdown().await?;
    assert_eq!(channel.read(&mut [0]).await?, 0);
    Ok(())
}

fn request(number: u32) -> [u8; BYTES] {
    std::array::from_fn(|at| number.to_le_bytes()[at % 4] ^ (at / 4) as u8)
}

#[test]
fn the_function_runs_on_a_thread_in_coroutines_and_has_a_twin() {
    on_threads(8);
    with_servers(SOME, run_coroutines);
    in_a_loop_without_tokio(SOME);
    with_servers(SOME, run_futures);
}

#[test]
#[ignore = "ten thousand handshakes, twice: `.ci/run full` runs it, in release"]
fn ten_thousand_coroutines_on_one_thread_run_the_function() {
    if std::env::var_os(ROLE).is_some() {
        return serve_connections(MANY);
    }
    let needed = u64::from(MANY) + 100;
    if !may_open(needed) {
        return;
    }
    for clients in [run_coroutines, run_futures] {
        with_child(MANY, clients);
    }
}

/// The servers of many connections have a process of their own, for the limit on open files.
const ROLE: &str = "QIO_MANY_COROUTINES_SERVES";

fn serve_connections(count: u32) {
    assert!(may_open(u64::from(count) + 100));
    let identity = SelfSigned::generate(["localhost"]).unwrap();
    let server = ServerSettings::new().identity(identity.identity()).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nserves {} {}", listener.local_addr().unwrap(), identity.fingerprint());
    let ours = (0..count).map(|_| socket(listener.accept().unwrap().0)).collect();
    serve_all(ours, &server);
}

fn with_child(count: u32, clients: impl FnOnce(Vec<Socket>, Arc<ClientConfig>)) {
    drop(runtime());
    scope(LIMIT, |_| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ten_thousand_coroutines_on_one_thread_run_the_function"])
            .args(["--ignored", "--nocapture"])
            .env(ROLE, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines =
            BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
        let line = lines.find(|line| line.starts_with("serves ")).unwrap();
        let [address, pin] = line["serves ".len()..].split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line:?} is no address and fingerprint")
        };
        let client = ClientSettings::new().pin(pin.parse().unwrap()).build().unwrap();
        let connect = |_| socket(TcpStream::connect(address).unwrap());
        clients((0..count).map(connect).collect(), client);
        assert!(child.wait().unwrap().success());
    });
}

fn socket(stream: TcpStream) -> Socket {
    Socket::from_fd(stream.into()).unwrap()
}

fn on_threads(count: u32) {
    with_servers(count, |clients, config| {
        let ask = |(number, below)| {
            let config = Arc::clone(&config);
            thread::spawn(move || ask(below, config, number))
        };
        let threads: Vec<_> = (0..).zip(clients).map(ask).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
}

fn run_coroutines(clients: Vec<Socket>, config: Arc<ClientConfig>) {
    let (before, count) = (resident_bytes(), clients.len());
    let tasks = LocalSet::new();
    for (number, below) in (0..).zip(clients) {
        let config = Arc::clone(&config);
        let coroutine = Coroutine::new(move || ask(below, config, number)).unwrap();
        tasks.spawn_local(async move { run(coroutine).await.unwrap().unwrap().unwrap() });
    }
    let begun = Instant::now();
    runtime().block_on(tasks);
    let grown = resident_bytes().saturating_sub(before) / 1024;
    println!("{count} coroutines: {:?}, {grown} KiB more", begun.elapsed());
}

/// The same in calloop.
fn in_a_loop_without_tokio(count: u32) {
    with_servers(count, |clients, config| {
        let mut events = calloop::EventLoop::<u32>::try_new().unwrap();
        for (number, below) in (0..).zip(clients) {
            let config = Arc::clone(&config);
            let coroutine = Coroutine::new(move || ask(below, config, number)).unwrap();
            let done = |result: std::result::Result<Result<()>, _>, _: &mut _, done: &mut u32| {
                result.unwrap().unwrap();
                *done += 1;
                calloop::PostAction::Remove
            };
            let source = qio_adapters::calloop::run(coroutine);
            events.handle().insert_source(source, done).unwrap();
        }
        let mut done = 0;
        while done < count {
            events.dispatch(None, &mut done).unwrap();
        }
    });
}

fn run_futures(clients: Vec<Socket>, config: Arc<ClientConfig>) {
    let (begun, count) = (Instant::now(), clients.len());
    runtime().block_on(async {
        let clients = (0..).zip(clients);
        let ask = |(number, below)| ask_async(below, Arc::clone(&config), number);
        let mut tasks: JoinSet<_> = clients.map(ask).collect();
        while let Some(result) = tasks.join_next().await {
            result.unwrap().unwrap();
        }
    });
    println!("{count} futures: {:?}", begun.elapsed());
}

/// Runs `clients` with so many sockets, whose other ends are served in another thread.
fn with_servers(count: u32, clients: impl FnOnce(Vec<Socket>, Arc<ClientConfig>)) {
    // What tokio makes once and keeps is made before anything is counted.
    drop(runtime());
    scope(LIMIT, |_| {
        let (client, server) = (Local::default().client(), Local::default().server());
        let pairs = (0..count).map(|_| Socket::pair().unwrap());
        let (theirs, ours): (Vec<_>, Vec<_>) = pairs.unzip();
        let servers = thread::spawn(move || serve_all(ours, &server));
        clients(theirs, client);
        servers.join().unwrap();
    });
}

fn serve_all(ours: Vec<Socket>, config: &Arc<ServerConfig>) {
    let all = Arc::new(Barrier::new(ours.len()));
    let serve = |below| serve(below, Arc::clone(config), Arc::clone(&all));
    runtime().block_on(async {
        let mut tasks: JoinSet<_> = ours.into_iter().map(serve).collect();
        while let Some(result) = tasks.join_next().await {
            result.unwrap().unwrap();
        }
    });
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Whether the process may have so many descriptors; raises its limit for that.
fn may_open(count: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return true;
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(count));
    for maximum in [limit.maximum, maximum] {
        if setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).is_ok() {
            return true;
        }
    }
    println!("skipped: the limit on open files is {:?}", limit.maximum);
    false
}
