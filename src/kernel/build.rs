//! GLSL to SPIR-V. A request names a shader and its definitions; includes are written out in place, so that one text
//! is everything the compiler sees and its hash names the result.
//!
//! In: shader texts through [`Sources`]. Out: SPIR-V words. Always: the same text gives the same module, and a cache
//! entry is used only if its hash is right.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::span::Sources;

/// The deepest nesting of includes.
const MAX_INCLUDES: usize = 8;

/// The largest flattened shader, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// One module to build.
#[derive(Clone, Copy, Debug)]
pub struct BuildRequest<'a> {
    /// The file under `shaders/`.
    pub shader: &'a str,
    /// Definitions that come before its text, in order.
    pub defines: &'a [(String, String)],
}

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A text could not be read.
    #[error("shader text: {0}")]
    Source(#[from] crate::span::SourceError),
    /// An include is nested too deep or malformed.
    #[error("{file}:{line}: {reason}")]
    Include {
        /// The including file.
        file: String,
        /// The line of the directive.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A text holds a byte that the GLSL compiler cannot be given.
    #[error("{file}:{line}: byte {byte} of the file is zero, which GLSL has no use for")]
    Zero {
        /// The shader or include.
        file: String,
        /// The line that it stands in.
        line: usize,
        /// Its number in the file, from 0.
        byte: usize,
    },
    /// A shader that does not begin with a `#version` of compute shaders.
    #[error("{file}:{line}: a shader begins with `#version`, {found}")]
    Version {
        /// The shader.
        file: String,
        /// The first line that is no comment.
        line: usize,
        /// What is there instead.
        found: String,
    },
    /// The GLSL compiler said no.
    #[error("{shader} does not compile:\n{messages}")]
    Glsl {
        /// The shader.
        shader: String,
        /// What the compiler said, with the shaders' own files and lines.
        messages: String,
    },
    /// There is no GLSL compiler in this program and the cache has no such module.
    #[error(
        "{shader}: no SPIR-V in the cache for these definitions, and this program was built without the `shaderc` \
         feature; build with it, or run a finished plan"
    )]
    NoCompiler {
        /// The shader.
        shader: String,
    },
}

impl BuildError {
    /// What to do about it, where the message does not say so already.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Zero { .. } => Some("save it as UTF-8 text"),
            Self::Version { .. } => {
                Some("write `#version 460` in front; only comments and blank lines may precede it")
            }
            _ => None,
        }
    }
}

/// A shader with its definitions and includes in one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flattened {
    /// The shader's path, for messages.
    pub path: String,
    /// What the compiler sees.
    pub text: String,
}

/// Makes SPIR-V from one flattened text.
pub trait Builder {
    /// The module's words.
    fn build(&self, shader: &Flattened) -> Result<Vec<u32>, BuildError>;
    /// Names the compiler and its options: part of the key under which results are cached.
    fn identity(&self) -> String;
}

/// Puts the definitions that the shader mentions behind the `#version` line and replaces each `#include "path"` (relative to the including
/// file, once per file) by the file's text. `#line` directives keep messages pointing at the files people edit.
pub fn flatten(request: BuildRequest<'_>, sources: &dyn Sources) -> Result<Flattened, BuildError> {
    let path = format!("shaders/{}", request.shader);
    let text = read(&path, sources)?;
    let version = version_line(&path, &text)?;
    let mut out = String::with_capacity(text.len() * 2);
    let mut lines = text.lines();
    for line in lines.by_ref().take(version) {
        out.push_str(line);
        out.push('\n');
    }
    let before = version + 1;
    out.push_str("#extension GL_GOOGLE_cpp_style_line_directive : require\n");
    let rest: Vec<&str> = lines.collect();
    let mut body = format!("#line {before} \"{path}\"\n");
    let mut seen = BTreeSet::new();
    append(&mut body, &path, &rest, before, sources, &mut seen, 0)?;
    for (name, value) in mentioned(request.defines, &body) {
        out.push_str(&format!("#define {name} {value}\n"));
    }
    out.push_str(&body);
    Ok(Flattened { path, text: out })
}

/// The text of a shader or include. Compilers take texts that end at a zero byte.
fn read(path: &str, sources: &dyn Sources) -> Result<String, BuildError> {
    let text = sources.read(path)?;
    match text.find('\0') {
        Some(byte) => Err(BuildError::Zero {
            file: path.into(),
            line: line_of(&text, byte),
            byte,
        }),
        None => Ok(text),
    }
}

/// The line of a byte, from 1.
fn line_of(text: &str, byte: usize) -> usize {
    1 + text[..byte].matches('\n').count()
}

/// The line of the `#version`, from 1. Only comments and space may stand before it; of a text without one, or with one
/// that is too old, the compiler would print all that it knows to standard output.
fn version_line(path: &str, text: &str) -> Result<usize, BuildError> {
    let mut rest = text.trim_start();
    loop {
        let comment = match rest {
            _ if rest.starts_with("//") => rest.find('\n'),
            _ if rest.starts_with("/*") => rest[2..].find("*/").map(|end| end + 4),
            _ => break,
        };
        rest = comment.map_or("", |end| &rest[end..]).trim_start();
    }
    let line = line_of(text, text.len() - rest.len());
    let first = rest.lines().next().unwrap_or_default().trim_end();
    let number = first
        .strip_prefix('#')
        .and_then(|directive| directive.trim_start().strip_prefix("version"))
        .filter(|number| number.starts_with(char::is_whitespace))
        .map(str::trim_start)
        .and_then(|number| {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            number
                .split(|c| !word(c))
                .next()
                .filter(|word| !word.is_empty())
        });
    let found = match number.map(str::parse::<u32>) {
        // 310 is the first of the embedded profile, 420 of the other one; which it is, the compiler looks at.
        Some(Ok(310..)) => return Ok(line),
        _ if text.trim().is_empty() => "this one is empty".into(),
        _ if rest.is_empty() => "this one has nothing but comments".into(),
        Some(Ok(old)) => format!("and {old} has no compute shaders"),
        Some(Err(_)) => format!("and `{}` has no number", start(first)),
        None => format!("this one with `{}`", start(first)),
    };
    Err(BuildError::Version {
        file: path.into(),
        line,
        found,
    })
}

/// The first characters of a line, with those visible that are not.
fn start(line: &str) -> String {
    let shown: String = line.chars().take(40).collect();
    shown.escape_debug().to_string()
}

/// The definitions whose name stands in `text`, or in the value of a later one that does: an option that a shader
/// does not look at must not make another module of it.
fn mentioned<'a>(defines: &'a [(String, String)], text: &'a str) -> Vec<&'a (String, String)> {
    let mut words: BTreeSet<&str> = words(text).collect();
    let mut kept = Vec::new();
    for define in defines.iter().rev() {
        if words.contains(define.0.as_str()) {
            words.extend(self::words(&define.1));
            kept.push(define);
        }
    }
    kept.reverse();
    kept
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

fn append(
    out: &mut String,
    path: &str,
    lines: &[&str],
    first: usize,
    sources: &dyn Sources,
    seen: &mut BTreeSet<String>,
    depth: usize,
) -> Result<(), BuildError> {
    for (index, line) in lines.iter().enumerate() {
        let number = first + index;
        let fail = |reason: String| BuildError::Include {
            file: path.into(),
            line: number,
            reason,
        };
        let trimmed = line.trim_start();
        if trimmed.starts_with("#extension GL_GOOGLE_include_directive") {
            // Includes are gone when the compiler sees the text; the line stays for editors.
            out.push('\n');
            continue;
        }
        let Some(rest) = trimmed.strip_prefix("#include") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let name = rest
            .trim()
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .ok_or_else(|| fail("expected `#include \"path\"`".into()))?;
        let target =
            beside(path, name).ok_or_else(|| fail(format!("`{name}` leaves the shader folder")))?;
        if depth >= MAX_INCLUDES {
            return Err(fail(format!("includes nested deeper than {MAX_INCLUDES}")));
        }
        if seen.insert(target.clone()) {
            let text = read(&target, sources)?;
            let inner: Vec<&str> = text.lines().collect();
            out.push_str(&format!("#line 1 \"{target}\"\n"));
            append(out, &target, &inner, 1, sources, seen, depth + 1)?;
        }
        out.push_str(&format!("#line {} \"{path}\"\n", number + 1));
        if out.len() > MAX_TEXT {
            return Err(fail(format!(
                "the shader with its includes is larger than {MAX_TEXT} bytes"
            )));
        }
    }
    Ok(())
}

/// `name` relative to the folder of `path`, or `None` if it climbs out of `shaders/`.
fn beside(path: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.len() > 1 => {
                parts.pop();
            }
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The GLSL compiler that is built into the program: Vulkan 1.3, optimised for speed, warnings are errors.
#[cfg(feature = "shaderc")]
pub struct ShadercBuilder {
    compiler: shaderc::Compiler,
}

#[cfg(feature = "shaderc")]
impl ShadercBuilder {
    /// Starts the compiler.
    pub fn new() -> Result<Self, BuildError> {
        let compiler = shaderc::Compiler::new().map_err(|error| BuildError::Glsl {
            shader: "shaderc".into(),
            messages: error.to_string(),
        })?;
        Ok(Self { compiler })
    }
}

#[cfg(feature = "shaderc")]
impl Builder for ShadercBuilder {
    fn build(&self, shader: &Flattened) -> Result<Vec<u32>, BuildError> {
        let fail = |messages: String| BuildError::Glsl {
            shader: shader.path.clone(),
            messages,
        };
        // Texts from files have none; a definition could.
        if shader.text.contains('\0') {
            return Err(fail("a definition holds a zero byte".into()));
        }
        let mut options =
            shaderc::CompileOptions::new().map_err(|error| fail(error.to_string()))?;
        options.set_target_env(
            shaderc::TargetEnv::Vulkan,
            shaderc::EnvVersion::Vulkan1_3 as u32,
        );
        options.set_optimization_level(shaderc::OptimizationLevel::Performance);
        options.set_warnings_as_errors();
        let module = self
            .compiler
            .compile_into_spirv(
                &shader.text,
                shaderc::ShaderKind::Compute,
                &shader.path,
                "main",
                Some(&options),
            )
            .map_err(|error| fail(error.to_string()))?;
        Ok(module.as_binary().to_vec())
    }

    fn identity(&self) -> String {
        let (version, revision) = shaderc::get_spirv_version();
        format!("shaderc 0.10 spirv {version:#x}.{revision} vulkan1.3 performance")
    }
}

/// Stands where no compiler was built in.
pub struct NoCompiler;

impl Builder for NoCompiler {
    fn build(&self, shader: &Flattened) -> Result<Vec<u32>, BuildError> {
        Err(BuildError::NoCompiler {
            shader: shader.path.clone(),
        })
    }
    fn identity(&self) -> String {
        // The identity of the compiler whose results may be in the cache.
        "shaderc 0.10 spirv 0x10600.1 vulkan1.3 performance".into()
    }
}

/// A folder of modules in front of a builder. An entry is `<blake3 of text and compiler>.spv`: the blake3 of the words
/// and then the words. Entries are written aside and renamed; what cannot be read, has the wrong hash or cannot be
/// written is as if it were not there.
pub struct CachedBuilder<B> {
    dir: PathBuf,
    inner: B,
}

impl<B: Builder> CachedBuilder<B> {
    /// Caches what `inner` builds in `dir`, which is made when it is first written to.
    pub fn new(dir: impl Into<PathBuf>, inner: B) -> Self {
        Self {
            dir: dir.into(),
            inner,
        }
    }

    fn entry(&self, shader: &Flattened) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.inner.identity().as_bytes());
        hasher.update(&[0]);
        hasher.update(shader.text.as_bytes());
        self.dir.join(format!("{}.spv", hasher.finalize().to_hex()))
    }
}

impl<B: Builder> Builder for CachedBuilder<B> {
    fn build(&self, shader: &Flattened) -> Result<Vec<u32>, BuildError> {
        let entry = self.entry(shader);
        if let Some(words) = read_entry(&entry) {
            return Ok(words);
        }
        let words = self.inner.build(shader)?;
        // A full disk or a read-only home costs the next start some time, not this one its result.
        let _ = write_entry(&self.dir, &entry, &words);
        Ok(words)
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }
}

fn read_entry(path: &Path) -> Option<Vec<u32>> {
    let bytes = std::fs::read(path).ok()?;
    let (hash, payload) = bytes.split_at_checked(blake3::OUT_LEN)?;
    if blake3::hash(payload).as_bytes() != hash || !payload.len().is_multiple_of(4) {
        return None;
    }
    Some(
        payload
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect(),
    )
}

fn write_entry(dir: &Path, path: &Path, words: &[u32]) -> std::io::Result<()> {
    use std::io::Write as _;
    std::fs::create_dir_all(dir)?;
    let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(blake3::hash(&payload).as_bytes())?;
    file.write_all(&payload)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
