//! Models by their id: downloaded from a Hub (a small server here), then from the cache alone.

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

use assert_cmd::Command;
use support::fixture;

/// What a Hub serves: `model/file` to content.
type Files = BTreeMap<String, Vec<u8>>;

/// The two requests of the Hub's interface that a download takes: a model's list of files, and a
/// file in ranges.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &files, &log);
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> usize {
        self.requests.lock().expect("log").len()
    }
}

fn answer(mut stream: TcpStream, files: &Files, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("stream")).lines();
    let Some(Ok(request)) = lines.next() else { return };
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    let path = request.split(' ').nth(1).unwrap_or("").to_string();
    log.lock().expect("log").push(path.clone());
    let range = head
        .iter()
        .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(String::from));
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
    };
    if let Some(model) =
        path.strip_prefix("/api/models/").and_then(|p| p.strip_suffix("/revision/main"))
    {
        let prefix = format!("{model}/");
        let names: Vec<_> = files.keys().filter_map(|name| name.strip_prefix(&prefix)).collect();
        if names.is_empty() {
            return send("404 Not Found", "", b"");
        }
        let siblings: Vec<_> =
            names.iter().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"sha": "0123abcd", "siblings": siblings}).to_string();
        return send("200 OK", "Content-Type: application/json\r\n", body.as_bytes());
    }
    let Some(content) = files.get(&path[1..].replace("/resolve/main/", "/")) else {
        return send("404 Not Found", "", b"");
    };
    let (from, to) = range.as_deref().and_then(|r| r.split_once('-')).expect("a range");
    let from: usize = from.parse().expect("a number");
    let to = to.parse().map_or(content.len(), |to: usize| content.len().min(to + 1));
    let total = content.len();
    let headers = format!(
        "x-repo-commit: 0123abcd\r\netag: \"{}-{total}\"\r\nContent-Range: bytes {from}-{}/{total}\r\n",
        path.replace('/', "_"),
        to - 1
    );
    send("206 Partial Content", &headers, &content[from..to]);
}

/// The files of the small model, some as shards.
fn files() -> Files {
    let read = |name: &str| {
        std::fs::read(fixture("models/shakespeare-llama").join(name)).expect("a fixture")
    };
    let mut files = Files::new();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        files.insert(format!("org/small/{name}"), read(name));
        files.insert(format!("org/sharded/{name}"), read(name));
    }
    let weights = files.remove("org/sharded/model.safetensors").expect("weights");
    let map: BTreeMap<String, &str> = safetensors::SafeTensors::deserialize(&weights)
        .expect("safetensors")
        .names()
        .into_iter()
        .map(|name| (name.to_string(), "model-00001-of-00001.safetensors"))
        .collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    files.insert("org/sharded/model-00001-of-00001.safetensors".into(), weights);
    files.insert("org/sharded/model.safetensors.index.json".into(), index.into_bytes());
    for name in ["a.Q4_0.gguf", "a.Q8_0.gguf"] {
        files.insert(format!("org/ggufs/{name}"), b"GGUF".to_vec());
    }
    let gguf = fixture("reference/gguf/models/llama-f16.gguf");
    files.insert("org/one/llama-f16.gguf".into(), std::fs::read(gguf).expect("a fixture"));
    // Two parts: no model is in them, which is found out after all are there.
    for name in ["q4/m-00001-of-00002.gguf", "q4/m-00002-of-00002.gguf"] {
        files.insert(format!("org/parts/{name}"), b"GGUF".to_vec());
        files.insert(format!("org/many/{name}"), b"GGUF".to_vec());
    }
    files.insert("org/many/m.Q8_0.gguf".into(), b"GGUF".to_vec());
    files.insert("org/pickled/pytorch_model.bin".into(), b"x".to_vec());
    files.insert("org/broken/config.json".into(), b"{}".to_vec());
    files.insert(
        "org/broken/model.safetensors.index.json".into(),
        br#"{"weight_map": {"a": "../../../evil.safetensors"}}"#.to_vec(),
    );
    files
}

/// Runs `generate` with a model id; gives the exit code and both outputs.
fn generate(model: &str, url: &str, home: &Path, offline: bool) -> (Option<i32>, String, String) {
    let mut command = Command::cargo_bin("metal-candle").expect("program");
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_CACHE", "HF_TOKEN"] {
        command.env_remove(name);
    }
    let output = command
        .args(["generate", "--tokens", "1,2,3", "--max-tokens", "5", "--device", "cpu"])
        .args(["--dtype", "f32", "--model", model])
        .env("HF_ENDPOINT", url)
        .env("HF_HOME", home)
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .output()
        .expect("run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn downloads_once_and_then_needs_no_hub() {
    let server = Server::start(files());
    let home = tempfile::tempdir().expect("folder");
    let here = fixture("models/shakespeare-llama");
    let (_, want, _) =
        generate(here.to_str().expect("path"), "http://127.0.0.1:9", home.path(), true);
    assert!(!want.trim().is_empty());
    for model in ["org/small", "org/sharded"] {
        let (code, got, error) = generate(model, &server.url, home.path(), false);
        assert_eq!((code, got.as_str()), (Some(0), want.as_str()), "{model}: {error}");
        let before = server.requests();
        let (code, got, error) = generate(model, &server.url, home.path(), false);
        assert_eq!((code, got.as_str()), (Some(0), want.as_str()), "{model} again: {error}");
        assert_eq!(server.requests(), before, "{model}: asked the Hub although it had everything");
        let (code, got, error) = generate(model, "http://127.0.0.1:9", home.path(), true);
        assert_eq!((code, got.as_str()), (Some(0), want.as_str()), "{model} offline: {error}");
    }
    for model in ["org/one", "org/one/llama-f16.gguf"] {
        let (code, _, error) = generate(model, &server.url, home.path(), false);
        assert_eq!(code, Some(0), "{model}: {error}");
    }
}

#[test]
fn a_download_that_broke_off_is_taken_up_again() {
    let server = Server::start(files());
    let home = tempfile::tempdir().expect("folder");
    assert_eq!(generate("org/sharded", &server.url, home.path(), false).0, Some(0));
    let snapshot = home.path().join("hub/models--org--sharded/snapshots/0123abcd");
    std::fs::remove_file(snapshot.join("model-00001-of-00001.safetensors")).expect("a shard");
    let (code, _, error) = generate("org/sharded", "http://127.0.0.1:9", home.path(), true);
    assert_eq!(code, Some(1));
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    let (code, _, error) = generate("org/sharded", &server.url, home.path(), false);
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn a_model_in_parts_is_downloaded_whole() {
    let server = Server::start(files());
    for model in ["org/parts", "org/parts/q4/m-00002-of-00002.gguf"] {
        let home = tempfile::tempdir().expect("folder");
        let (code, _, error) = generate(model, &server.url, home.path(), false);
        assert_eq!(code, Some(1));
        assert!(error.contains("of-00002.gguf: the version needs 4 bytes"), "{error}");
        let snapshot = home.path().join("hub/models--org--parts/snapshots/0123abcd/q4");
        for part in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
            assert!(snapshot.join(part).is_file(), "{model}: {part}");
        }
        // With one of them gone, the cache does not have it.
        let named = "org/parts/q4/m-00002-of-00002.gguf";
        let (_, _, error) = generate(named, &server.url, home.path(), true);
        assert!(error.contains("the version needs 4 bytes"), "{error}");
        std::fs::remove_file(snapshot.join("m-00001-of-00002.gguf")).expect("a part");
        let (_, _, error) = generate(named, &server.url, home.path(), true);
        assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    }
}

#[test]
fn failures_say_what_to_do() {
    let server = Server::start(files());
    let home = tempfile::tempdir().expect("folder");
    for (model, words) in [
        ("org/nothing", &["org/nothing", "HF_TOKEN", "no such file"][..]),
        ("org/one/other.gguf", &["other.gguf", "org/one"]),
        ("org/ggufs", &["org/ggufs/a.Q4_0.gguf", "org/ggufs/a.Q8_0.gguf", "name one"]),
        ("org/many", &["org/many/m.Q8_0.gguf", "org/many/q4/m-00001-of-00002.gguf"]),
        ("org/pickled", &["org/pickled", "model.safetensors", ".gguf"]),
        ("org/broken", &["plain file name", "evil"]),
        ("../escape", &["../escape", "organisation/name"]),
    ] {
        let (code, _, error) = generate(model, &server.url, home.path(), false);
        assert_eq!(code, Some(1), "{model}: {error}");
        assert!(!error.contains("panicked"), "{error}");
        for word in words {
            assert!(error.contains(word), "{model}: {word:?} is not in {error}");
        }
    }
    let (code, _, error) = generate("org/small", "http://127.0.0.1:9", home.path(), false);
    assert_eq!(code, Some(1));
    assert!(error.contains("127.0.0.1:9"), "{error}");
    let (code, _, error) = generate("org/small", &server.url, home.path(), true);
    assert_eq!(code, Some(1));
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
}
