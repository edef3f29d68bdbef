//! A model's own chat template around messages.
//!
//! In: messages with roles, and the Jinja template that the model's file carries. Out: the prompt as the model was
//! trained to see it. What always holds: a template runs with fuel and a recursion limit, so one that loops is an
//! error that names it; it reads nothing but the messages.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::Value as Json;

use super::metadata::ModelMetadata;
use super::tokenizer::{TokenizerError, read_capped, read_settings};
use crate::codes::model as codes;
use crate::diag::Code;

/// Steps of a template; real ones take a few thousand for a long chat.
const FUEL: u64 = 1_000_000;
/// The largest template that is read; real ones have some KiB.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;
/// Nested macros and includes.
const MAX_DEPTH: usize = 64;

/// Why a chat cannot be put into a prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// There is no template.
    #[error(
        "{path} has no chat template, so the model was hardly trained on chats\nhelp: use --raw"
    )]
    None {
        /// Where it would be.
        path: PathBuf,
    },
    /// Its file.
    #[error(transparent)]
    File(#[from] TokenizerError),
    /// The metadata.
    #[error("{0}")]
    Metadata(String),
    /// The template ran for too long.
    #[error(
        "the chat template of {name} was stopped after {FUEL} steps; it loops\nhelp: use --raw, or correct the template"
    )]
    Loops {
        /// Where it stands.
        name: String,
    },
    /// The template is wrong or refuses the messages.
    #[error("the chat template of {name} failed: {reason}")]
    Failed {
        /// Where it stands.
        name: String,
        /// What it says.
        reason: String,
    },
}

impl ChatError {
    /// Its diagnostic code.
    pub fn code(&self) -> Code {
        match self {
            Self::File(error) => error.code(),
            _ => codes::CHAT,
        }
    }
}

/// Who says what.
#[derive(Clone, Debug)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// Of the person.
    pub fn user(content: &str) -> Self {
        Self {
            role: "user".into(),
            content: content.into(),
        }
    }
}

/// A model's template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    name: String,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// A template; `name` says in messages where it came from.
    pub fn new(name: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            source: source.into(),
            bos: String::new(),
            eos: String::new(),
        }
    }

    /// With the texts of the tokens that begin and end a text, which templates spell out.
    pub fn with_tokens(mut self, bos: &str, eos: &str) -> Self {
        self.bos = bos.into();
        self.eos = eos.into();
        self
    }

    /// The template of a model.
    pub fn of(metadata: &ModelMetadata) -> Result<Self, ChatError> {
        let none = || ChatError::None {
            path: metadata.checkpoint.clone(),
        };
        let vocabulary = metadata
            .vocabulary()
            .map_err(|error| ChatError::Metadata(error.to_string()))?;
        let Some(vocabulary) = vocabulary else {
            return Self::of_folder(&metadata.folder)?.ok_or_else(none);
        };
        let source = vocabulary.chat_template.ok_or_else(none)?;
        let text = |id: Option<u32>| {
            id.and_then(|id| vocabulary.tokens.get(id as usize))
                .copied()
                .unwrap_or_default()
        };
        let name = metadata.checkpoint.display().to_string();
        Ok(Self::new(name, source).with_tokens(text(vocabulary.bos), text(vocabulary.eos)))
    }

    fn of_folder(folder: &Path) -> Result<Option<Self>, ChatError> {
        let config = read_settings(folder, "tokenizer_config.json")?.map(|(_, config)| config);
        let config = config.unwrap_or(Json::Null);
        let token = |key: &str| -> String {
            let value = config
                .get(key)
                .map(|value| value.get("content").unwrap_or(value));
            value.and_then(Json::as_str).unwrap_or_default().into()
        };
        // A list holds templates for several purposes; the one for chats is called `default`.
        let listed = |list: &Vec<Json>| {
            let default = list.iter().find(|item| item["name"] == "default")?;
            default["template"].as_str().map(String::from)
        };
        let inline = match config.get("chat_template") {
            Some(Json::String(source)) => Some(source.clone()),
            Some(Json::Array(list)) => listed(list),
            _ => None,
        };
        let path = folder.join("chat_template.jinja");
        let (name, source) = match inline {
            Some(source) => (folder.join("tokenizer_config.json"), source),
            None if path.exists() => {
                let bytes = read_capped(&path, MAX_TEMPLATE_BYTES)?;
                (path, String::from_utf8_lossy(&bytes).into_owned())
            }
            None => return Ok(None),
        };
        let template = Self::new(name.display().to_string(), source);
        Ok(Some(
            template.with_tokens(&token("bos_token"), &token("eos_token")),
        ))
    }

    /// The prompt for `messages`, ready for the assistant's answer.
    pub fn render(&self, messages: &[Message]) -> Result<String, ChatError> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_DEPTH);
        // As the Python package that these templates are written for sets it up.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| self.failed(&error))?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        let context = context! {
            messages => messages,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => true,
        };
        environment
            .render_named_str("chat_template", &self.source, context)
            .map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &Error) -> ChatError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(at) = cause {
            let fuel = at
                .downcast_ref::<Error>()
                .is_some_and(|error| error.kind() == ErrorKind::OutOfFuel);
            if fuel {
                return ChatError::Loops {
                    name: self.name.clone(),
                };
            }
            cause = at.source();
        }
        let reason = match (error.detail(), error.line()) {
            (Some(detail), Some(line)) => format!("{detail} (line {line})"),
            _ => error.to_string(),
        };
        ChatError::Failed {
            name: self.name.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn render(source: &str) -> Result<String, ChatError> {
        ChatTemplate::new("model.gguf", source)
            .with_tokens("<s>", "</s>")
            .render(&[Message::user("  Hi ")])
    }

    #[test]
    fn templates_use_roles_tokens_and_methods_of_python() {
        let source = "{{ bos_token }}{% for m in messages %}\n<|{{ m.role }}|>{{ m['content'].strip() }}{{ eos_token }}\n{% endfor %}\n{% if add_generation_prompt %}<|assistant|>{% endif %}";
        assert_eq!(render(source).unwrap(), "<s><|user|>Hi</s>\n<|assistant|>");
    }

    #[test]
    fn a_template_that_loops_is_stopped_and_named() {
        let long = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
        let endless = "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}";
        let error = render(long).unwrap_err();
        assert!(
            matches!(&error, ChatError::Loops { name } if name == "model.gguf"),
            "{error}"
        );
        assert!(error.to_string().contains("model.gguf"));
        assert!(render(endless).is_err());
    }

    #[test]
    fn what_a_template_refuses_is_said() {
        let error = render("{{ raise_exception('no user first') }}").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("model.gguf") && text.contains("no user first"),
            "{text}"
        );
        let error = render("{% for %}").unwrap_err();
        assert!(matches!(error, ChatError::Failed { .. }));
        assert_eq!(error.code(), codes::CHAT);
    }
}
