//! `CURRENT`: the one file that says which manifest counts.
//!
//! It is one line of text, `MANIFEST-000005 4096 1a2b3c4d`: the manifest, how many of its bytes were durable when
//! the line was written, and the checksum of both. It is replaced by rename, in this order:
//!
//! 1. the manifest is synced, and so is the directory: its name and bytes are safe, nobody points to it yet;
//! 2. a temporary file gets the line and is synced: safe, nobody reads it yet;
//! 3. rename over `CURRENT`, then sync the directory: from here on the new manifest counts, before it the old;
//! 4. only then may the old manifest be removed.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::format::frame::{FrameKind, FrameReader};
use crate::format::names::FileName;
use crate::vfs::{Vfs, read_full};
use std::io::IoSlice;
use std::path::Path;

/// What `CURRENT` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The manifest that counts.
    pub manifest: FileNumber,
    /// How many of its bytes were durable then.
    pub durable_len: u64,
}

const POINTER_LEN_BYTES_MAX: usize = 256;

/// Writes the line for `pointer`.
pub fn encode(pointer: Pointer) -> String {
    let said = format!("{} {}", FileName::Manifest(pointer.manifest), pointer.durable_len);
    format!("{said} {:08x}\n", crc32fast::hash(said.as_bytes()))
}

fn decode(line: &str) -> Option<Pointer> {
    let (said, crc) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    let (name, len) = said.split_once(' ')?;
    let FileName::Manifest(manifest) = FileName::parse(name)? else { return None };
    let pointer = Pointer { manifest, durable_len: len.parse().ok()? };
    // The spelling must be ours to the letter, so that a damaged line cannot pass for another one.
    (crc.len() == 8 && encode(pointer) == line).then_some(pointer)
}

/// Reads `CURRENT`; `None` if there is none.
///
/// # Errors
/// `Corruption` if it is not what was written; `Io`.
pub fn read(vfs: &dyn Vfs, directory: &Path) -> Result<Option<Pointer>> {
    let path = FileName::Current.path(directory);
    match read_line(vfs, &path) {
        Ok(Some(pointer)) => return Ok(Some(pointer)),
        Ok(None) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let damaged = Error::corruption(&path, 0, "CURRENT is damaged: it names no manifest");
    // Where even looking for a way out fails, this is the error that matters.
    Err(match rescue(vfs, directory) {
        Ok(Some(pointer)) => damaged.with_remark(&format!(
            "{} is the only manifest and whole, and the line that leads to it is {:?}",
            FileName::Manifest(pointer.manifest),
            encode(pointer).trim_end()
        )),
        Ok(None) | Err(_) => damaged,
    })
}

/// Reads the line of `CURRENT`, or of a file that is to take its place; `None` if it is no such line.
///
/// # Errors
/// `NotFound`, `Io`.
pub fn read_line(vfs: &dyn Vfs, path: &Path) -> Result<Option<Pointer>> {
    let mut bytes = [0u8; POINTER_LEN_BYTES_MAX];
    let count = read_full(vfs.open(path)?.as_ref(), &mut bytes, 0)?;
    Ok(std::str::from_utf8(&bytes[..count]).ok().and_then(decode))
}

/// Returns what `CURRENT` has to say, if that can be told without it: where there is one manifest only, and every byte of it
/// can be read. The manifest that counts is never removed, so it is that one. Damage that cut it exactly behind a frame
/// would not be noticed: only a lost `CURRENT` knew how long it was at least.
///
/// # Errors
/// `Io`.
pub fn rescue(vfs: &dyn Vfs, directory: &Path) -> Result<Option<Pointer>> {
    let listed = vfs.read_dir(directory)?;
    let mut manifests =
        listed.iter().filter(|entry| !entry.is_dir).filter_map(|entry| match FileName::parse(&entry.name)? {
            FileName::Manifest(number) => Some(number),
            _ => None,
        });
    let (Some(manifest), None) = (manifests.next(), manifests.next()) else { return Ok(None) };
    let path = FileName::Manifest(manifest).path(directory);
    let file = vfs.open(&path)?;
    let mut frames = FrameReader::new(file.as_ref(), &path, manifest)?;
    let Some(FrameKind::Header) = frames.next_frame()?.map(|frame| frame.kind) else { return Ok(None) };
    while frames.next_frame()?.is_some() {}
    let durable_len = frames.offset();
    Ok(frames.is_zero_behind(durable_len)?.then_some(Pointer { manifest, durable_len }))
}

/// Makes `CURRENT` say `pointer`, durably, through a temporary file numbered `temporary`.
///
/// # Errors
/// `NoSpace`, `Io`: either the old or the new line stands.
pub fn switch(vfs: &dyn Vfs, directory: &Path, pointer: Pointer, temporary: FileNumber) -> Result<()> {
    prepare(vfs, directory, pointer, temporary)?;
    put_in_place(vfs, directory, temporary)
}

/// Writes the line for `pointer` to a temporary file and syncs it: the first half of [`switch`].
///
/// # Errors
/// `NoSpace`, `Io`: the old line stands; the temporary file may exist.
pub fn prepare(vfs: &dyn Vfs, directory: &Path, pointer: Pointer, temporary: FileNumber) -> Result<()> {
    let path = FileName::Temporary(temporary).path(directory);
    let mut file = vfs.create_new(&path)?;
    file.append(&[IoSlice::new(encode(pointer).as_bytes())])?;
    file.sync()
}

/// Makes a temporary file that was prepared `CURRENT`: the second half of [`switch`].
///
/// # Errors
/// `NoSpace`, `Io`: either the old or the new line stands.
pub fn put_in_place(vfs: &dyn Vfs, directory: &Path, temporary: FileNumber) -> Result<()> {
    vfs.rename(&FileName::Temporary(temporary).path(directory), &FileName::Current.path(directory))?;
    vfs.sync_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_makes_the_line_unreadable() {
        let pointer = Pointer { manifest: FileNumber(5), durable_len: 4096 };
        let line = encode(pointer);
        assert_eq!(decode(&line), Some(pointer));
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut bytes = line.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert_eq!(std::str::from_utf8(&bytes).ok().and_then(decode), None, "byte {at} bit {bit}");
            }
        }
    }
}
