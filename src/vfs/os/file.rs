//! Handles of the real disk: files being written, files being read.
//!
//! A write handle keeps its own logical end and does not use `O_APPEND`, because preallocation moves the system's
//! idea of the end ahead of ours. It also remembers that physical end: what lies between the two are zeros that it put
//! there, and only these does it ever cut off again.

use crate::base::error::{Error, ErrorKind, Result};
use crate::vfs::os::system::{advise, read_at, reserve, set_len, write_all_at, write_parts_at};
use crate::vfs::{Advice, ReadFile, WriteFile};
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

pub(in crate::vfs::os) struct OsWriteFile {
    file: File,
    path: PathBuf,
    /// The logical end: where the next append goes, whatever is allocated behind it.
    len: u64,
    /// The physical end, behind which the file has nothing. Zeros lie between the two.
    physical_len: u64,
    /// Set by a failed append, which leaves both ends unknown.
    is_broken: bool,
}

impl OsWriteFile {
    /// Takes a new, empty file.
    pub(in crate::vfs::os) fn new(file: File, path: &Path) -> OsWriteFile {
        OsWriteFile { file, path: path.to_owned(), len: 0, physical_len: 0, is_broken: false }
    }

    fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::from_io(operation, &self.path, source).with_offset(self.len)
    }

    /// Refuses to go on behind a failed append.
    fn check_sound(&self, operation: &'static str) -> Result<()> {
        if self.is_broken {
            let error = Error::new(ErrorKind::Io, "an earlier append failed");
            return Err(error.with_file(&self.path).with_operation(operation));
        }
        Ok(())
    }

    fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<u64> {
        if let [part] = parts {
            write_all_at(&self.file, part, self.len)?;
            return Ok(part.len() as u64);
        }
        write_parts_at(&self.file, parts, self.len)
    }

    /// Cuts the file to `len` bytes, which never lies before the logical end.
    fn cut(&mut self, len: u64) -> io::Result<()> {
        assert!(len >= self.len, "what was appended is never cut off");
        set_len(&self.file, len)?;
        self.physical_len = len;
        Ok(())
    }
}

impl WriteFile for OsWriteFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        self.check_sound("append")?;
        match self.write_parts(parts) {
            Ok(written) => {
                self.len += written;
                self.physical_len = self.physical_len.max(self.len);
                Ok(())
            }
            Err(error) => {
                self.is_broken = true;
                Err(self.error("append", error))
            }
        }
    }

    fn sync(&mut self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|error| Error::from_sync("sync", &self.path, error).with_offset(self.len))
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn allocate(&mut self, len: u64) -> Result<()> {
        self.check_sound("allocate")?;
        if len <= self.physical_len {
            return Ok(());
        }
        let error = match reserve(&self.file, len) {
            Ok(is_reserved) => {
                self.physical_len = if is_reserved { len } else { self.physical_len };
                return Ok(());
            }
            Err(error) => self.error("allocate", error),
        };
        // A full disk was filled up to here, and others need the rest of it too.
        match self.cut(self.physical_len) {
            Ok(()) => Err(error),
            Err(left) => {
                let kind = error.kind();
                Err(error
                    .wrap(kind, format!("allocating failed, and what it took was not given back: {left}")))
            }
        }
    }

    fn allocated_len(&self) -> u64 {
        self.physical_len
    }

    fn trim(&mut self) -> Result<()> {
        if self.physical_len == self.len && !self.is_broken {
            return Ok(());
        }
        self.cut(self.len).map_err(|error| self.error("trim", error))
    }
}

pub(in crate::vfs::os) struct OsReadFile {
    file: File,
    path: PathBuf,
}

impl OsReadFile {
    pub(in crate::vfs::os) fn new(file: File, path: &Path) -> OsReadFile {
        OsReadFile { file, path: path.to_owned() }
    }
}

impl ReadFile for OsReadFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            match read_at(&self.file, buffer, offset) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_io("read", &self.path, error).with_offset(offset)),
            }
        }
    }

    fn len(&self) -> Result<u64> {
        match self.file.metadata() {
            // Opening one for reading is no error to the system, and its length says nothing.
            Ok(metadata) if metadata.is_dir() => {
                Err(Error::from_io("open", &self.path, io::Error::from(io::ErrorKind::IsADirectory)))
            }
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(Error::from_io("len", &self.path, error)),
        }
    }

    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        advise(&self.file, advice, offset, len);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn failed_append_breaks_the_handle() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let file = File::options().write(true).open(full).unwrap();
        let mut file = OsWriteFile::new(file, full);
        let error = file.append(&[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(file.append(&[]).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(file.allocate(9).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(file.len(), 0);
    }

    #[test]
    fn a_trim_cuts_what_a_failed_append_left_and_no_appended_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = OsWriteFile::new(File::create_new(&path).unwrap(), &path);
        file.append(&[IoSlice::new(b"abc")]).unwrap();
        write_all_at(&file.file, b"part of a failed one", 3).unwrap();
        file.is_broken = true;
        file.trim().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(file.len(), 3);
    }
}
