#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::layout;
use crate::span::SourceMap;
use crate::text::print;
use crate::text::tokens::{Kind, tokens};

#[track_caller]
fn prints(from: &str, to: &str) {
    let to = to.trim_start_matches('\n');
    assert_eq!(layout(from), to);
    assert_eq!(layout(to), to, "not stable");
}

#[test]
fn steps_stand_one_to_a_line_and_open_their_body() {
    prints(
        r#"Graph(name:"g",dims:{"b":Var(max:"1"),},
body:[Pass(kernel:"a",out:{"y":"x"}),Repeat(index:"l",count:"2",body:[Use(block:"b")])], outputs: [])"#,
        r#"
Graph(
    name: "g",
    dims: { "b": Var(max: "1") },
    body: [
        Pass(kernel: "a", out: { "y": "x" }),
        Repeat(index: "l", count: "2", body: [
            Use(block: "b"),
        ]),
    ],
    outputs: [],
)
"#,
    );
}

#[test]
fn what_does_not_fit_gets_a_line_for_each_item() {
    prints(
        r#"Blocks([Block(name: "b", body: [Pass(kernel: "a_long_kernel_name", in: { "x": "a_rather_long_value", "w": "another_value_here" }, out: { "y": "result" }),
            Weight(name: "w", shape: [], dtype: "f32", from: Concat([Tensor("{w}.attention.self.query.weight"), Tensor("{w}.attention.self.a_much_longer_name_of_the_key.weight")]))])])"#,
        r#"
Blocks([
    Block(name: "b", body: [
        Pass(
            kernel: "a_long_kernel_name",
            in: { "x": "a_rather_long_value", "w": "another_value_here" },
            out: { "y": "result" },
        ),
        Weight(
            name: "w",
            shape: [],
            dtype: "f32",
            from: Concat([
                Tensor("{w}.attention.self.query.weight"),
                Tensor("{w}.attention.self.a_much_longer_name_of_the_key.weight"),
            ]),
        ),
    ]),
])
"#,
    );
}

#[test]
fn comments_and_single_blank_lines_stay() {
    prints(
        r#"// head

/* and
   more */
Graph( // opened
    name: "g", // its name
    // about the body


    body: [ /* first */ Pass(kernel: /* which */ "k", out: {}), // runs

        // then


        Pass(kernel // odd
          : "k", out: {}) /* tail */, /* own */ Pass(kernel: "m", out: {}),
        // last
    ],
    outputs: ["a", /* b */ "b"]
    // end
)
// foot"#,
        r#"
// head

/* and
   more */
Graph(
    // opened
    name: "g", // its name
    // about the body

    body: [
        /* first */
        Pass(
            /* which */
            kernel: "k",
            out: {},
        ), // runs

        // then

        Pass(
            // odd
            kernel: "k",
            out: {},
        ), /* tail */
        /* own */
        Pass(kernel: "m", out: {}),
        // last
    ],
    outputs: [
        "a",
        /* b */
        "b",
    ],
    // end
)
// foot
"#,
    );
}

/// What must survive printing: every token but commas, comments sorted (they may move within their item).
fn essence(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut words, mut comments) = (Vec::new(), Vec::new());
    for token in tokens(text) {
        match token.kind {
            Kind::Comma => {}
            Kind::Comment => comments.push(&text[token.at]),
            _ => words.push(&text[token.at]),
        }
    }
    comments.sort_unstable();
    (words, comments)
}

/// Random graph files with blanks and comments wherever RON allows them.
fn random_file(u: &mut arbtest::arbitrary::Unstructured<'_>) -> arbtest::arbitrary::Result<String> {
    fn gap(
        u: &mut arbtest::arbitrary::Unstructured<'_>,
        out: &mut String,
    ) -> arbtest::arbitrary::Result<()> {
        let gaps = [
            "",
            "",
            " ",
            "\n",
            "\n\n\n",
            " /* c */ ",
            "// d\n",
            "\n  // e\n\n",
            "/* f\n\n g */",
        ];
        out.push_str(u.choose(&gaps)?);
        Ok(())
    }
    fn steps(
        u: &mut arbtest::arbitrary::Unstructured<'_>,
        out: &mut String,
        depth: u32,
    ) -> arbtest::arbitrary::Result<()> {
        let mut emit = |u: &mut arbtest::arbitrary::Unstructured<'_>, parts: &[&str]| {
            for part in parts {
                gap(u, out)?;
                out.push_str(part);
            }
            arbtest::arbitrary::Result::Ok(())
        };
        emit(u, &["["])?;
        for _ in 0..u.int_in_range(0..=3)? {
            match u.int_in_range(0..=3)? {
                0 => emit(
                    u,
                    &[
                        "Pass", "(", "kernel", ":", "\"k\"", ",", "out", ":", "{", "\"y\"", ":",
                        "\"v\"", ",", "}", ")", ",",
                    ],
                )?,
                1 => emit(
                    u,
                    &[
                        "View",
                        "(",
                        "name",
                        ":",
                        "\"a, (b\"",
                        ",",
                        "of",
                        ":",
                        "r#\"c\"#",
                        ",",
                        "shape",
                        ":",
                        "[",
                        "\"n\"",
                        ",",
                        "\"4\"",
                        "]",
                        ")",
                        ",",
                    ],
                )?,
                2 => emit(
                    u,
                    &[
                        "Weight",
                        "(",
                        "name",
                        ":",
                        "\"a_rather_long_name_for_a_weight\"",
                        ",",
                        "dtype",
                        ":",
                        "\"f32\"",
                        ",",
                        "shape",
                        ":",
                        "[",
                        "]",
                        ",",
                        "from",
                        ":",
                        "Concat",
                        "(",
                        "[",
                        "Tensor",
                        "(",
                        "\"x\"",
                        ")",
                        "]",
                        ")",
                        ")",
                        ",",
                    ],
                )?,
                _ if depth < 3 => {
                    emit(
                        u,
                        &[
                            "Repeat", "(", "index", ":", "\"l\"", ",", "count", ":", "\"2\"", ",",
                            "body", ":",
                        ],
                    )?;
                    let mut inner = String::new();
                    steps(u, &mut inner, depth + 1)?;
                    emit(u, &[&inner, ")", ","])?;
                }
                _ => {}
            }
        }
        emit(u, &["]"])
    }
    let mut out = String::new();
    gap(u, &mut out)?;
    out.push_str("Graph(name: \"g\",");
    gap(u, &mut out)?;
    out.push_str("body:");
    steps(u, &mut out, 0)?;
    out.push_str(", outputs: [");
    gap(u, &mut out)?;
    out.push_str("])");
    gap(u, &mut out)?;
    Ok(out)
}

#[test]
fn printing_is_stable_and_loses_nothing() {
    arbtest::arbtest(|u| {
        let text = random_file(u)?;
        let mut map = SourceMap::default();
        let file = map.add("t.ron", text.as_str());
        let once = print(file, &map).unwrap_or_else(|problems| {
            panic!("{text}\n{}", problems.render(&map, false));
        });
        assert_eq!(essence(&once), essence(&text), "{text}\n--\n{once}");
        let again = map.add("u.ron", once.as_str());
        let twice = print(again, &map).unwrap_or_else(|problems| {
            panic!("{once}\n{}", problems.render(&map, false));
        });
        assert_eq!(twice, once, "{text}");
        Ok(())
    })
    .budget_ms(1_000);
}
