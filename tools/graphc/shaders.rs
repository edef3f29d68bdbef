//! The compiler of shaders that every command uses: the one that this build has, behind the cache.

use graphc::kernel::build::{Builder, CachedBuilder};

use crate::context::Context;
use crate::failure::Failure;

/// Shaders from the cache, built where the cache has none and this build has a compiler.
pub fn builder(context: &Context) -> Result<Box<dyn Builder>, Failure> {
    #[cfg(feature = "shaderc")]
    let compiler = graphc::kernel::build::ShadercBuilder::new().map_err(Failure::failed)?;
    #[cfg(not(feature = "shaderc"))]
    let compiler = graphc::kernel::build::NoCompiler;
    let cache = context.cache_dir()?.join("spirv");
    Ok(Box::new(CachedBuilder::new(cache, compiler)))
}
