//! Runs README.md's walk-through as it stands there and looks at the effect of each step.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The shell blocks of README.md that follow the mark of the walk-through, as one script.
fn script() -> String {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let blocks = readme.split("<!-- walk-through -->\n```sh\n").skip(1);
    let blocks: Vec<&str> = blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 4, "the walk-through has four steps");
    format!("set -euo pipefail\n{}", blocks.concat())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn model() -> PathBuf {
    let output = Command::new("bash")
        .arg(Path::new(ROOT).join("tools/fetch-model"))
        .arg("minilm")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

#[test]
fn the_walk_through_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["graphs", "shaders", "profiles"] {
        copy(&Path::new(ROOT).join(part), &folder.path().join(part));
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_graphc")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-c", &script()])
        .current_dir(folder.path())
        .env("PATH", path)
        .env("MODEL", model())
        .env_remove("GRAPHC_ROOT")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let passes = |file: &str| -> u64 {
        let text = std::fs::read(folder.path().join("my").join(file)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let entry = json.get("entries").map_or(&json, |entries| &entries[0]);
        entry["passes"].as_u64().unwrap()
    };
    let embedding = |file: &str| -> Vec<f64> {
        let text = std::fs::read_to_string(folder.path().join("my").join(file)).unwrap();
        text.split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect()
    };
    let furthest = |file: &str| {
        let pairs = embedding("before.txt").into_iter().zip(embedding(file));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    assert!(
        passes("unfused.json") > passes("before.json"),
        "a fusion less means passes more"
    );
    assert!(furthest("unfused.txt") < 1e-5, "and the same numbers");
    assert_eq!(
        passes("longer.json"),
        passes("before.json") + 5,
        "a layer is five passes"
    );
    assert!(furthest("longer.txt") > 1e-3, "which change the result");
    assert!(furthest("pooled.txt") > 1e-3, "and so does another pooling");
}
