//! Every graph in the repository parses, with its includes.
#![allow(clippy::unwrap_used, clippy::panic)]

use graphc::sources::FsSources;
use graphc::span::{SourceMap, Sources};

#[test]
fn every_graph_loads() {
    let sources = FsSources::new(env!("CARGO_MANIFEST_DIR"));
    let models = sources.list("graphs/models").unwrap();
    assert!(models.len() >= 3, "{models:?}");
    for path in models {
        let mut map = SourceMap::default();
        if let Err(problems) = graphc::text::load(&path, &sources, &mut map) {
            panic!("{}", problems.render(&map, false));
        }
    }
}
