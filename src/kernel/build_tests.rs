#![allow(clippy::unwrap_used)]
use super::*;
use std::cell::Cell;
use std::collections::BTreeMap;

fn texts(items: &[(&str, &str)]) -> BTreeMap<String, String> {
    items
        .iter()
        .map(|(path, text)| (path.to_string(), text.to_string()))
        .collect()
}

#[test]
fn includes_are_written_out_once_and_lines_stay_true() {
    let sources = texts(&[
        (
            "shaders/k.comp",
            "// a kernel\n#version 460\n#include \"include/a.glsl\"\nvoid main() {}\n",
        ),
        (
            "shaders/include/a.glsl",
            "#include \"b.glsl\"\n#include \"b.glsl\"\nint a[N];\n",
        ),
        ("shaders/include/b.glsl", "int b;\n"),
    ]);
    let defines = [("N".to_string(), "4".to_string())];
    let flat = flatten(
        BuildRequest {
            shader: "k.comp",
            defines: &defines,
        },
        &sources,
    )
    .unwrap();
    let expected = "// a kernel\n#version 460\n#extension GL_GOOGLE_cpp_style_line_directive : require\n\
            #define N 4\n#line 3 \"shaders/k.comp\"\n#line 1 \"shaders/include/a.glsl\"\n\
            #line 1 \"shaders/include/b.glsl\"\nint b;\n#line 2 \"shaders/include/a.glsl\"\n\
            #line 3 \"shaders/include/a.glsl\"\nint a[N];\n#line 4 \"shaders/k.comp\"\nvoid main() {}\n";
    assert_eq!(flat.text, expected);
}

#[test]
fn definitions_stand_behind_the_version_that_counts() {
    let text = "/*\n#version 110\n*/\n# version 460\nint a[N];\n";
    let request = BuildRequest {
        shader: "k.comp",
        defines: &[("N".to_string(), "4".to_string())],
    };
    let flat = flatten(request, &texts(&[("shaders/k.comp", text)])).unwrap();
    let end = "# version 460\n#extension GL_GOOGLE_cpp_style_line_directive : require\n#define N 4\n\
            #line 5 \"shaders/k.comp\"\nint a[N];\n";
    assert!(flat.text.ends_with(end), "{}", flat.text);
}

#[test]
fn definitions_that_nobody_mentions_are_left_out() {
    let sources = texts(&[("shaders/k.comp", "#version 460\nint a = ACT + Nn + N_;\n")]);
    let defines = ["ACT_RELU 0", "ACT_GELU 1", "ACT ACT_GELU", "N 4", "A float"];
    let defines = defines.map(|define| {
        let (name, value) = define.split_once(' ').unwrap();
        (name.to_string(), value.to_string())
    });
    let request = BuildRequest {
        shader: "k.comp",
        defines: &defines,
    };
    let text = flatten(request, &sources).unwrap().text;
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("#define"))
        .collect();
    assert_eq!(kept, ["#define ACT_GELU 1", "#define ACT ACT_GELU"]);
}

#[test]
fn an_include_stays_inside_the_shader_folder() {
    let sources = texts(&[(
        "shaders/k.comp",
        "#version 460\n#include \"../../secret\"\n",
    )]);
    let error = flatten(
        BuildRequest {
            shader: "k.comp",
            defines: &[],
        },
        &sources,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "shaders/k.comp:2: `../../secret` leaves the shader folder"
    );
}

fn refused(files: &[(&str, &str)]) -> String {
    let request = BuildRequest {
        shader: "k.comp",
        defines: &[],
    };
    flatten(request, &texts(files)).unwrap_err().to_string()
}

#[test]
fn a_zero_byte_is_refused_with_its_place() {
    let zero = "#version 460\nvoid main() {}\0\n";
    assert_eq!(
        refused(&[("shaders/k.comp", zero)]),
        "shaders/k.comp:2: byte 27 of the file is zero, which GLSL has no use for"
    );
    let main = "#version 460\n#include \"a.glsl\"\n";
    assert_eq!(
        refused(&[("shaders/k.comp", main), ("shaders/a.glsl", "int a;\n\0")]),
        "shaders/a.glsl:2: byte 7 of the file is zero, which GLSL has no use for"
    );
}

#[test]
fn a_shader_begins_with_its_version() {
    let line = |text: &str| version_line("k", text).unwrap();
    assert_eq!(line("#version 460\n"), 1);
    assert_eq!(line("\n// #version 110\n  # version 310 es"), 3);
    assert_eq!(line("/*\n#version 110\n*/ /**/ #version 450 core // x"), 3);
    assert_eq!(line("#version 460// x"), 1);
    for (text, said) in [
        ("", "1: a shader begins with `#version`, this one is empty"),
        (
            " \n\n",
            "3: a shader begins with `#version`, this one is empty",
        ),
        (
            "// x\n/* y",
            "2: a shader begins with `#version`, this one has nothing but comments",
        ),
        (
            "// x",
            "1: a shader begins with `#version`, this one has nothing but comments",
        ),
        (
            "// x\nint a;\n#version 460",
            "2: a shader begins with `#version`, this one with `int a;`",
        ),
        (
            "\u{feff}#version 460",
            "1: a shader begins with `#version`, this one with `\\u{feff}#version 460`",
        ),
        (
            "#versions 460",
            "1: a shader begins with `#version`, this one with `#versions 460`",
        ),
        (
            "#version",
            "1: a shader begins with `#version`, this one with `#version`",
        ),
        (
            "#version x",
            "1: a shader begins with `#version`, and `#version x` has no number",
        ),
        (
            "#version 110",
            "1: a shader begins with `#version`, and 110 has no compute shaders",
        ),
    ] {
        assert_eq!(
            refused(&[("shaders/k.comp", text)]),
            format!("shaders/k.comp:{said}")
        );
    }
}

struct Counting(Cell<u32>);
impl Builder for Counting {
    fn build(&self, _: &Flattened) -> Result<Vec<u32>, BuildError> {
        self.0.set(self.0.get() + 1);
        Ok(vec![1, 2, 3])
    }
    fn identity(&self) -> String {
        "counting".into()
    }
}

#[test]
fn the_cache_builds_once_and_again_after_damage() {
    let dir = tempfile::tempdir().unwrap();
    let cached = CachedBuilder::new(dir.path(), Counting(Cell::new(0)));
    let shader = Flattened {
        path: "shaders/k.comp".into(),
        text: "void main() {}".into(),
    };
    assert_eq!(cached.build(&shader).unwrap(), [1, 2, 3]);
    assert_eq!(cached.build(&shader).unwrap(), [1, 2, 3]);
    assert_eq!(cached.inner.0.get(), 1);
    let entry = cached.entry(&shader);
    let mut bytes = std::fs::read(&entry).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&entry, bytes).unwrap();
    assert_eq!(cached.build(&shader).unwrap(), [1, 2, 3]);
    assert_eq!(cached.inner.0.get(), 2);
}

#[cfg(feature = "shaderc")]
#[test]
fn compiler_messages_name_the_shader_and_its_line() {
    let sources = texts(&[(
        "shaders/k.comp",
        "#version 460\n\nvoid main() { nonsense; }\n",
    )]);
    let flat = flatten(
        BuildRequest {
            shader: "k.comp",
            defines: &[],
        },
        &sources,
    )
    .unwrap();
    let error = ShadercBuilder::new()
        .unwrap()
        .build(&flat)
        .unwrap_err()
        .to_string();
    assert!(error.contains("shaders/k.comp:3:"), "{error}");
}
