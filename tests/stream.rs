//! Long streams in constant memory: ten times the lines take no more of it. The model is tiny and made up.
#![cfg(all(feature = "gpu", feature = "shaderc", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// The most memory that the process ever had, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Embeds so many lines and gives the peak of memory in KiB.
fn embed(model: &Path, lines: u64) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_graphc"))
        .args(["embed", "--quiet", "--set", "layers=1", "--cache-dir"])
        .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/cli-cache"))
        .arg("--model")
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        for line in 0..lines {
            // 1 to 3 words, so that batches differ.
            let words: Vec<String> = (0..=line % 3)
                .map(|k| format!("w{}", (line + k) % 90))
                .collect();
            writeln!(stdin, "{}", words.join(" ")).unwrap();
        }
        // Without an end the process stays, and with it what the system says about it.
        stdin
    });
    // The last window is embedded when the stream ends, so all lines but those of one window come before.
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stdin = Some(writer);
    let (mut count, mut most) = (0, 0);
    while count < lines {
        if count + 2 * 1024 >= lines
            && let Some(writer) = stdin.take()
        {
            drop(writer.join().unwrap());
        }
        let line = out.next().expect("too few lines").unwrap();
        assert!(line.starts_with('[') && line.ends_with(']'), "{line}");
        count += 1;
        if count % 100 == 0 {
            most = most.max(peak(child.id()).unwrap_or(0));
        }
    }
    assert!(out.next().is_none(), "more lines than texts");
    assert!(child.wait().unwrap().success());
    most
}

#[test]
fn memory_does_not_grow_with_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let model = support::golden::golden("nomic_bert.json").write(folder.path());
    let short = embed(&model, 2_000);
    let long = embed(&model, 20_000);
    println!("2000 lines: {short} KiB, 20000 lines: {long} KiB");
    // 18000 more embeddings of 64 numbers are 4.5 MiB as f32 and some 13 MiB as text; their tokens another MiB.
    assert!(
        short > 0 && long < short + 4096,
        "{short} KiB, then {long} KiB"
    );
}
