//! Downloads from a hub: a server on this machine that answers as Hugging Face's does, and an empty cache.
#![cfg(all(feature = "hf-hub", feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILES: [&str; 4] = [
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
];

/// Answers one request; `false` at the end of the connection.
fn answer(stream: &mut BufReader<TcpStream>, model: &Path) -> std::io::Result<bool> {
    let mut request = String::new();
    if stream.read_line(&mut request)? == 0 {
        return Ok(false);
    }
    let mut start = None;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        let header = header.to_lowercase();
        if let Some(range) = header.strip_prefix("range: bytes=") {
            let (from, to) = range.trim().split_once('-').unwrap();
            start = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
        }
    }
    let path = request.split(' ').nth(1).unwrap();
    let (status, head, body) = if path.starts_with("/api/models/org/tiny") {
        let files = FILES.map(|file| serde_json::json!({ "rfilename": file }));
        let info = serde_json::json!({ "sha": COMMIT, "siblings": files });
        ("200 OK", String::new(), info.to_string().into_bytes())
    } else if let Some(file) = path.strip_prefix("/org/tiny/resolve/main/") {
        let bytes = std::fs::read(model.join(file)).unwrap();
        let (from, to) = start.unwrap_or((0, None));
        let end = to.map_or(bytes.len(), |to| (to + 1).min(bytes.len()));
        let head = format!(
            "etag: \"{file}\"\r\nx-repo-commit: {COMMIT}\r\naccept-ranges: bytes\r\ncontent-range: bytes {from}-{}/{}\r\n",
            end - 1,
            bytes.len()
        );
        ("206 Partial Content", head, bytes[from..end].to_vec())
    } else {
        (
            "404 Not Found",
            String::new(),
            b"Repository not found".to_vec(),
        )
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{head}content-length: {}\r\n\r\n",
        body.len()
    );
    let out = stream.get_mut();
    out.write_all(head.as_bytes())?;
    out.write_all(&body)?;
    out.flush()?;
    Ok(true)
}

/// Serves `model` as `org/tiny` for the life of the process; gives the address.
fn serve(model: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, model) = (BufReader::new(stream.unwrap()), model.clone());
            std::thread::spawn(move || while answer(&mut stream, &model).unwrap_or(false) {});
        }
    });
    address
}

fn embed(model: &str, cache: &Path, endpoint: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graphc"));
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command
        .args(["embed", "--model", model, "--quiet", "--cache-dir"])
        .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/cli-cache"))
        .args(more)
        .args(["w2 w3 w4", "w5"])
        .env("HF_HUB_CACHE", cache)
        .env("HF_ENDPOINT", endpoint)
        .output()
        .unwrap()
}

#[test]
fn a_model_is_downloaded_once_and_only_when_asked_for() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = support::golden::golden("nomic_bert.json").write(folder.path());
    std::fs::write(model.join("README.md"), "Not needed.").unwrap();
    let endpoint = serve(model.clone());
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();

    let refused = embed("hf:org/tiny", cache.path(), &endpoint, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("add --download"),
        "{}",
        said(&refused)
    );
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);

    let first = embed("hf:org/tiny", cache.path(), &endpoint, &["--download"]);
    assert!(first.status.success(), "{}", said(&first));
    let local = embed(model.to_str().unwrap(), cache.path(), &endpoint, &[]);
    assert_eq!(first.stdout, local.stdout, "as from the folder itself");
    assert_eq!(
        first.stdout.iter().filter(|byte| **byte == b'\n').count(),
        2
    );
    let snapshot = cache
        .path()
        .join("models--org--tiny/snapshots")
        .join(COMMIT);
    assert!(snapshot.join("model.safetensors").is_file());
    assert!(!snapshot.join("README.md").exists(), "only what is needed");

    // Now it is there, whether or not there is a server.
    let again = embed("hf:org/tiny", cache.path(), "http://127.0.0.1:9", &[]);
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(again.stdout, first.stdout);

    let unknown = embed("hf:org/other", cache.path(), &endpoint, &["--download"]);
    assert_eq!(unknown.status.code(), Some(1));
    let message = said(&unknown);
    assert!(
        message.contains("cannot download `hf:org/other`"),
        "{message}"
    );
    assert!(message.contains("404"), "{message}");
}
