#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use crate::span::SourceMap;
use crate::text::ast::*;
use crate::text::{load, parse};

/// The example of the graph format page.
const BERT: &str = r#"// the model
Graph(
    name: "bert", accepts: ["bert"], include: ["../blocks/encoder.ron"],
    params: { "layers": Int(from: ["num_hidden_layers"]), "eps": Float(from: ["layer_norm_eps"], default: "1e-12"),
              "act": Choice(of: ["gelu", "relu"], from: ["hidden_act"], default: "gelu"), "w": Text() },
    dtypes: { "act": "f32", "weight": "f32" },
    dims: { "batch": Var(max: "64"), "rows": Is("batch * seq") },
    inputs: { "ids": Tensor("u32", ["rows"]), "spans": Tensor("u32", ["batch", "2"]) },
    carry: { "c": Carry(tensor: Tensor("f32", ["rows"]), next: "d") },
    body: [
        Use(block: "bert_embeddings", in: { "ids": "ids" }, out: { "x": "h" }),
        Repeat(index: "l", count: "layers", carry: { "h": "h" }, body: [
            Use(block: "encoder_layer", in: { "x": "h" }, with: { "w": "encoder.layer.{l}" }, out: { "y": "h" }),
        ]),
        Weight(name: "w", dtype: "weight", shape: ["n", "k"], from: PairHalves(Concat([Tensor("{w}.q"), Transpose(Tensor("{w}.k"))]), "d_head"), when: "bias"),
        Weight(name: "v", dtype: "weight", shape: ["n"], from: Slice(AnyOf([Tensor("a"), Sum([Tensor("b")])]), "0", "n")),
        View(name: "q", of: "qkv", shape: ["n"], offset: "0"),
        Pass(kernel: "pool", in: { "x": /* here */ "h" }, out: { "y": "pooled" }, set: { "kind": "pooling" }, types: { "A": "f16" }),
        Pass(kernel: "l2_normalize", in: { "x": "pooled" }, out: { "y": "embedding" }, when: "normalize", otherwise: { "embedding": "pooled" }),
    ],
    outputs: ["embedding"], asserts: ["d_model % heads == 0"],
    entries: { "small": { "batch": "1", "seq": "32" } },
)
"#;

fn parsed(text: &str) -> Result<File, String> {
    let mut map = SourceMap::default();
    let file = map.add("t.ron", text);
    parse(file, &map).map_err(|problems| problems.render(&map, false))
}

#[test]
fn every_name_knows_its_place() {
    let File::Graph(graph) = parsed(BERT).unwrap_or_else(|text| panic!("{text}")) else {
        panic!("not a graph");
    };
    let text = |name: &Name| &BERT[name.span.start as usize..name.span.end as usize];
    assert_eq!(text(&graph.name), "\"bert\"");
    assert_eq!(text(&graph.params[1].0), "\"eps\"");
    assert_eq!(
        text(graph.params[1].1.default.as_ref().unwrap()),
        "\"1e-12\""
    );
    let DimDecl::Is(rows) = &graph.dims[1].1 else {
        panic!("rows")
    };
    assert_eq!(text(rows), "\"batch * seq\"");
    let Item::Pass(pool) = &graph.body[5] else {
        panic!("pool")
    };
    assert_eq!(text(&pool.inputs[0].1), "\"h\"");
    assert_eq!(text(&pool.at), "\"pool\"");
    assert_eq!(graph.entries[0].1[1].1.value, "32");
    let Item::Weight(weight) = &graph.body[2] else {
        panic!("weight")
    };
    let Recipe::PairHalves(of, group) = &weight.from else {
        panic!("recipe")
    };
    assert_eq!(text(group), "\"d_head\"");
    assert!(matches!(&**of, Recipe::Concat(parts) if parts.len() == 2));
    let Item::Weight(slice) = &graph.body[3] else {
        panic!("weight")
    };
    assert!(
        matches!(&slice.from, Recipe::Slice(of, _, count) if count.value == "n" && matches!(&**of, Recipe::AnyOf(_)))
    );
}

#[test]
fn blocks_and_fusions_are_files_of_their_own() {
    let blocks =
        r#"Blocks([Block(name: "b", in: ["x"], out: ["y"], params: { "w": Text() }, body: [])])"#;
    assert!(matches!(parsed(blocks), Ok(File::Blocks(list)) if list.len() == 1));
    let fusions = r#"Fusions([Fuse(name: "f", match: [Pass(kernel: "add", out: { "y": "s" }, absent: ["b"])],
        into: Pass(kernel: "k", from: 0, set: { "eps": "p1.eps" }), when: "p0.n <= 4096")])"#;
    assert!(matches!(parsed(fusions), Ok(File::Fusions(list)) if list[0].into.from == Some(0)));
}

#[test]
fn nesting_is_bounded() {
    let mut text = String::from("Graph(name: \"n\", outputs: [], body: ");
    text.push_str(&"[Repeat(index: \"i\", count: \"1\", body: ".repeat(5000));
    let error = parsed(&text).unwrap_err();
    assert!(error.contains("G0008"), "{error}");
    for open in ["(", "[", "{", "Some(", "A(", "[A("] {
        let error = parsed(&format!("Graph(name: {}", open.repeat(5000))).unwrap_err();
        assert!(error.contains("error[G00"), "{error}");
    }
}

#[test]
fn an_included_file_is_read_once_and_relative_to_its_graph() {
    let graph =
        |include: &str| format!("Graph(name: \"g\", include: [{include}], body: [], outputs: [])");
    let block = "Blocks([Block(name: \"b\", body: [])])".to_string();
    let load_with = |include: &str| {
        let sources = BTreeMap::from([
            ("m/g.ron".to_string(), graph(include)),
            ("b/b.ron".to_string(), block.clone()),
            ("b/c.ron".to_string(), block.clone()),
            ("m/other.ron".to_string(), graph("\"g.ron\"")),
            ("m/third.ron".to_string(), graph("")),
        ]);
        let mut map = SourceMap::default();
        load("m/g.ron", &sources, &mut map).map_err(|problems| problems.render(&map, false))
    };
    let loaded = load_with("\"../b/b.ron\", \"./../b/./b.ron\"").unwrap();
    assert_eq!(loaded.blocks.len(), 1);
    for (include, code, says) in [
        (
            "\"../b/b.ron\", \"../b/c.ron\"",
            "G0012",
            "two blocks are called `b`",
        ),
        ("\"../../x.ron\"", "G0001", "leaves the root folder"),
        ("\"x.ron\"", "G0001", "cannot read `m/x.ron`"),
        ("\"../m/g.ron\"", "G0009", "m/g.ron -> m/g.ron"),
        (
            "\"other.ron\"",
            "G0009",
            "m/g.ron -> m/other.ron -> m/g.ron",
        ),
        ("\"third.ron\"", "G0010", "holds a graph"),
    ] {
        let error = load_with(include).unwrap_err();
        assert!(
            error.contains(code) && error.contains(says),
            "{include}: {error}"
        );
    }
}

#[test]
fn problems_have_a_code_and_a_place() {
    for (text, code, place, says) in [
        (
            "Graph(name: \"n\", body: [Pass(kernl: \"k\")], outputs: [])",
            "G0003",
            "1:30",
            "did you mean `kernel`?",
        ),
        (
            "Graph(name: \"n\", body: [Pas(kernel: \"k\")], outputs: [])",
            "G0004",
            "1:25",
            "did you mean `Pass`?",
        ),
        (
            "Graph(name: \"n\", body: [])",
            "G0005",
            "1:2",
            "field `outputs` is missing",
        ),
        (
            "Graph(name: \"n\",\n  dims: { \"b\": Var(max: 64) })",
            "G0006",
            "2:25",
            "write \"64\"",
        ),
        (
            "Graph(name: \"n\",\n  dims: [\"b\"])",
            "G0006",
            "2:",
            "expected a map",
        ),
        (
            "Graph(name: \"n\",\n  dims: { \"b\": Is(\"1\"), \"b\": Is(\"2\") })",
            "G0007",
            "2:25",
            "first here",
        ),
        (
            "Graph(name: \"n\", name: \"m\")",
            "G0007",
            "1:",
            "stands twice",
        ),
        ("Graph(name: \"n", "G0002", "1:", ""),
        ("", "G0002", "1:1", ""),
        (
            "Graph(name: \"\u{e9}\u{e9}\", body: [Pass(kernel: 3)], outputs: [])",
            "G0006",
            "1:39",
            "write \"3\"",
        ),
    ] {
        let error = parsed(text).unwrap_err();
        assert!(error.contains(code), "{text}: {error}");
        assert!(error.contains(&format!("t.ron:{place}")), "{text}: {error}");
        assert!(error.contains(says), "{text}: {error}");
    }
}
