//! The pipeline cache on disk: drivers' compiled shaders, so that the second start does not compile again.
//!
//! Drivers read these bytes with little care, so nothing reaches one unchecked: the file has a header of our own
//! (magic, version, the exact device and driver, length, blake3), and a file that is damaged or belongs to
//! another driver is ignored and written anew. Files are written aside and renamed. The idea of an own header is
//! from "Robust pipeline cache serialization" (zeux.io, 2019).

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::device::Identity;
use super::error::VkError;

const MAGIC: &[u8; 8] = b"graphcPC";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 12 + 48 + 8 + 32;
/// A larger file is not ours.
const MAX_BYTES: u64 = 256 << 20;

/// The file's bytes for a driver's cache data.
pub fn encode(identity: &Identity, data: &[u8]) -> Vec<u8> {
    let mut out = header(identity, data);
    out.extend_from_slice(data);
    out
}

fn header(identity: &Identity, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + data.len());
    out.extend_from_slice(MAGIC);
    for number in [
        VERSION,
        identity.vendor,
        identity.device,
        identity.driver_version,
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for uuid in [
        identity.cache_uuid,
        identity.device_uuid,
        identity.driver_uuid,
    ] {
        out.extend_from_slice(&uuid);
    }
    out.extend_from_slice(&(data.len() as u64).to_le_bytes());
    out.extend_from_slice(blake3::hash(data).as_bytes());
    out
}

/// The driver's cache data in a file's bytes, if they are whole and made by exactly this device and driver.
pub fn decode<'a>(identity: &Identity, file: &'a [u8]) -> Option<&'a [u8]> {
    let (found, data) = file.split_at_checked(HEADER_BYTES)?;
    (found == header(identity, data)).then_some(data)
}

/// The file of a device and driver in `folder`.
pub fn path(folder: &Path, identity: &Identity) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header(identity, &[]));
    let name = hasher.finalize().to_hex();
    folder.join(format!("pipelines-{}.bin", &name[..16]))
}

/// The driver's cache data at `path`, or nothing: a missing or bad file only costs time.
pub fn load(path: &Path, identity: &Identity) -> Vec<u8> {
    let read = || -> Option<Vec<u8>> {
        let file = std::fs::File::open(path).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        decode(identity, &bytes).map(<[u8]>::to_vec)
    };
    read().unwrap_or_default()
}

/// Writes the driver's cache data to `path` by way of a file beside it.
pub fn save(path: &Path, identity: &Identity, data: &[u8]) -> Result<(), VkError> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&encode(identity, data))?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|source| VkError::CacheNotWritten {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            vendor: 1,
            device: 2,
            driver_version: 3,
            cache_uuid: [4; 16],
            device_uuid: [5; 16],
            driver_uuid: [6; 16],
        }
    }

    #[test]
    fn only_whole_files_of_this_driver_are_used() {
        let data = b"what the driver said".to_vec();
        let file = encode(&identity(), &data);
        assert_eq!(decode(&identity(), &file), Some(&data[..]));
        for cut in 0..file.len() {
            assert_eq!(decode(&identity(), &file[..cut]), None, "cut at {cut}");
        }
        for byte in 0..file.len() {
            let mut bad = file.clone();
            bad[byte] ^= 1;
            assert_eq!(decode(&identity(), &bad), None, "byte {byte}");
        }
        let newer = Identity {
            driver_version: 4,
            ..identity()
        };
        assert_eq!(decode(&newer, &file), None);
    }

    #[test]
    fn a_bad_file_is_ignored_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), &identity());
        assert!(load(&path, &identity()).is_empty());
        std::fs::write(&path, b"not a cache").unwrap();
        assert!(load(&path, &identity()).is_empty());
        save(&path, &identity(), b"data").unwrap();
        assert_eq!(load(&path, &identity()), b"data");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = save(&file.join("sub/cache.bin"), &identity(), b"data").unwrap_err();
        assert!(error.to_string().contains("sub/cache.bin"), "{error}");
    }
}
