//! Looking at the files of a database without opening it: any file as text, any directory checked.
//!
//! Uses the same readers as the engine, so what it cannot read the engine cannot either. Changes no byte. Text is
//! for people: its layout may change in any release.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::base::time::UnixMillis;
use crate::format::batch::{Unreadable, open_record};
use crate::format::frame::{self, FRAME_HEADER_LEN_BYTES, Frame, FrameKind, FrameReader};
use crate::format::names::FileName;
use crate::table::block_cursor::BlockCursor;
use crate::table::footer;
use crate::table::properties::{OwnedKey, Properties};
use crate::table::reader::{Table, TableFile, TableSource};
use crate::table::shared::Cache;
use crate::version::edit::{Change, Changes};
use crate::version::{manifest, pointer};
use crate::vfs::lock_mark;
use crate::vfs::{Vfs, read_full};
use crate::wal::{self, reader::read_predecessor};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Writes what a file of a database says as text, telling its kind by its name, or by its bytes where that is no name of a
/// database's file: a table or log that was renamed still says which it was.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use std::{path::Path, sync::Arc};
/// use tinylsm::{Db, inspect::dump_file, vfs::mem::MemVfs};
/// let disk = Arc::new(MemVfs::new());
/// let db = Db::builder("/db").vfs(disk.clone()).open()?;
/// db.put("apple", "red")?;
/// db.flush()?;
/// let mut text = String::new();
/// dump_file(disk.as_ref(), Path::new("/db/CURRENT"), &mut text)?;
/// assert!(text.contains("MANIFEST-"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidArgument` if neither name nor bytes are those of a database's file; `Corruption` for the first bytes that make no sense, after
/// everything else that can be read was written, and which bytes that leaves out; `Incompatible` from where a newer version's begin; `Io`.
pub fn dump_file(vfs: &dyn Vfs, path: &Path, out: &mut dyn Write) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(FileName::parse);
    let name = match name {
        Some(name) => name,
        None => name_by_content(vfs, path)?.ok_or_else(|| {
            Error::invalid("neither its name nor its bytes are those of a file of a database").with_file(path)
        })?,
    };
    match name {
        FileName::Lock => dump_lock(vfs, path, out),
        FileName::Reserve => {
            put(out, format_args!("space set aside for a full disk: its bytes mean nothing\n"))
        }
        FileName::Current | FileName::Temporary(_) => dump_pointer(vfs, path, out),
        FileName::Manifest(number) => {
            let beside = pointer::read(vfs, or_here(path.parent().unwrap_or(Path::new(""))));
            let stated = beside.ok().flatten().filter(|pointer| pointer.manifest == number);
            let durable_len = stated.map_or(0, |pointer| pointer.durable_len);
            dump_log(vfs, path, (number, durable_len), out, &mut dump_edit)
        }
        FileName::Wal(number) => {
            let predecessor = read_predecessor(vfs, path, number);
            match &predecessor {
                Ok(Some(before)) => put(
                    out,
                    format_args!(
                        "segment {number} after segment {}, which ends at byte {} with number {}\n",
                        before.number, before.good_len, before.last_seq
                    ),
                )?,
                Ok(None) => put(out, format_args!("segment {number}, the first\n"))?,
                // What can be read behind it says which segment it is of.
                Err(error) if error.kind() == ErrorKind::Corruption => {}
                Err(error) => return Err(error.clone()),
            }
            let dumped = dump_log(vfs, path, (number, 0), out, &mut dump_record);
            predecessor.and(dumped)
        }
        FileName::Table(number) => dump_table(vfs, path, number, out),
    }
}

/// Returns the line that `CURRENT` has to have where it is lost or damaged, if that can be told: there is one manifest, and
/// it can be read to its end. Copy the directory before you write it there, with a line end behind it.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use std::{path::Path, sync::Arc};
/// use tinylsm::{Db, inspect::pointer_line, vfs::mem::MemVfs};
/// let disk = Arc::new(MemVfs::new());
/// Db::builder("/db").vfs(disk.clone()).open()?.close()?;
/// let line = pointer_line(disk.as_ref(), Path::new("/db"))?.expect("nothing is lost");
/// assert!(line.starts_with("MANIFEST-"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `NotFound`, if there is no such directory; `Io`.
pub fn pointer_line(vfs: &dyn Vfs, directory: &Path) -> Result<Option<String>> {
    let pointer = pointer::rescue(vfs, or_here(directory))?;
    Ok(pointer.map(|pointer| pointer::encode(pointer).trim_end().to_owned()))
}

/// Returns the directory that a path without one is in.
fn or_here(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

/// Returns the name that a file had, as tables and logs tell it; `None` if it is no such file. Whoever reads it in full
/// finds out whether it tells the truth.
fn name_by_content(vfs: &dyn Vfs, path: &Path) -> Result<Option<FileName>> {
    let file = vfs.open(path)?;
    let mut head = [0; FRAME_HEADER_LEN_BYTES + 8];
    let head_len = read_full(file.as_ref(), &mut head, 0)?;
    if let Some(number) = frame::header_number(&head[..head_len]) {
        match head.last_chunk::<8>() {
            Some(wal::HEADER_MAGIC) => return Ok(Some(FileName::Wal(number))),
            Some(manifest::HEADER_MAGIC) => return Ok(Some(FileName::Manifest(number))),
            _ => {}
        }
    }
    Ok(footer::number_claimed(file.as_ref())?.map(FileName::Table))
}

fn put(out: &mut dyn Write, text: std::fmt::Arguments<'_>) -> Result<()> {
    out.write_fmt(text).map_err(|_| Error::new(ErrorKind::Io, "the text could not be written"))
}

fn dump_lock(vfs: &dyn Vfs, path: &Path, out: &mut dyn Write) -> Result<()> {
    let mut bytes = [0; lock_mark::LEN_BYTES + 1];
    let len = read_full(vfs.open(path)?.as_ref(), &mut bytes, 0)?;
    match lock_mark::decode(&bytes[..len]) {
        Some(process) => put(out, format_args!("lock file: opened for writing last by process {process}\n")),
        None => put(out, format_args!("lock file: its bytes mean nothing\n")),
    }
}

fn dump_pointer(vfs: &dyn Vfs, path: &Path, out: &mut dyn Write) -> Result<()> {
    let directory = or_here(path.parent().unwrap_or(Path::new("")));
    if path.file_name().is_some_and(|name| name != "CURRENT") {
        return match pointer::read_line(vfs, path)? {
            Some(_) => put(out, format_args!("temporary file on its way to become CURRENT\n")),
            None => put(out, format_args!("temporary file: its bytes mean nothing\n")),
        };
    }
    match pointer::read(vfs, directory)? {
        Some(pointer) => put(
            out,
            format_args!(
                "{} counts, durable up to byte {}\n",
                FileName::Manifest(pointer.manifest),
                pointer.durable_len
            ),
        ),
        None => Err(Error::new(ErrorKind::NotFound, "there is no such file").with_file(path)),
    }
}

/// How one kind of log shows a record.
type DumpRecord = dyn FnMut(&FrameReader<'_>, &Frame, &mut dyn Write) -> Result<()>;

/// Writes every frame that can be read, and where bytes lie between two of them that cannot. `durable_len` is what another
/// file says was durable.
fn dump_log(
    vfs: &dyn Vfs,
    path: &Path,
    (number, durable_len): (FileNumber, u64),
    out: &mut dyn Write,
    dump_one: &mut DumpRecord,
) -> Result<()> {
    let file = vfs.open(path)?;
    let mut frames = FrameReader::new(file.as_ref(), path, number)?;
    // Where recovery stops, and how much of what is behind that was durable.
    let (mut end, mut watermark) = (None, durable_len);
    let mut first_error = None;
    loop {
        while let Some(frame) = next_frame(&mut frames, out)? {
            let (offset, len, synced) = (frame.offset, frame.bytes.len(), frame.synced_len);
            watermark = watermark.max(synced);
            put(out, format_args!("@{offset} {:?} {len} bytes, synced to {synced}\n", frame.kind))?;
            if frame.kind == FrameKind::Record
                && let Err(error) = dump_one(&frames, &frame, out)
            {
                let why = match error.kind() {
                    ErrorKind::Corruption => "makes no sense",
                    ErrorKind::Incompatible => "is of a newer version",
                    _ => return Err(error),
                };
                put(out, format_args!("    the rest of this frame is left out: it {why}\n"))?;
                first_error.get_or_insert(error);
            }
        }
        let unreadable_at = frames.offset();
        end.get_or_insert(unreadable_at);
        let Some(next) = frames.skip_to_frame()? else { break };
        let len = next - unreadable_at;
        let hole = format!("{len} bytes cannot be read, and what follows them can");
        first_error.get_or_insert_with(|| frames.corruption(unreadable_at, hole));
        put(
            out,
            format_args!(
                "@{unreadable_at} {len} bytes cannot be read; the next frame that can begins at {next}\n"
            ),
        )?;
    }
    let (end, last, file_len) = (end.unwrap_or(0), frames.offset(), frames.file_len());
    let behind = match (last == file_len, frames.is_zero_behind(last)?) {
        (true, _) => "nothing behind this",
        (false, true) => "zeros from here on, allocated ahead",
        (false, false) => {
            "and what follows is no zeros: a torn tail, or damage if another file says more was durable"
        }
    };
    put(out, format_args!("@{last} end of the readable part; the file has {file_len} bytes, {behind}\n"))?;
    if watermark > end {
        let message = format!(
            "unreadable here, but byte {watermark} was durable, as a later frame or another file says"
        );
        return Err(frames.corruption(end, message));
    }
    first_error.map_or(Ok(()), Err)
}

/// Returns the next frame. Of what a newer version wrote it says how much that keeps from being read.
fn next_frame(frames: &mut FrameReader<'_>, out: &mut dyn Write) -> Result<Option<Frame>> {
    let found = frames.next_frame();
    if let Err(error) = &found
        && error.kind() == ErrorKind::Incompatible
    {
        let (at, len) = (frames.offset(), frames.file_len() - frames.offset());
        put(out, format_args!("@{at} {len} bytes are left out: a newer version wrote them\n"))?;
    }
    found
}

fn dump_edit(frames: &FrameReader<'_>, frame: &Frame, out: &mut dyn Write) -> Result<()> {
    let payload_offset = frame.offset + FRAME_HEADER_LEN_BYTES as u64;
    if frame.payload().is_empty() {
        put(out, format_args!("    no change: states how much is synced\n"))?;
    }
    for change in Changes::new(frame.payload()) {
        match change.map_err(|unreadable| unreadable.into_error(frames.path(), payload_offset))? {
            Change::AddTable { keyspace, level, meta } => put(
                out,
                format_args!(
                    "    add table {} to keyspace {keyspace} level {level}: {} bytes, {} {}, \"{}\"..=\"{}\", numbers {}..={}\n",
                    meta.number,
                    meta.len_bytes,
                    meta.entries,
                    if meta.entries == 1 { "entry" } else { "entries" },
                    meta.smallest.escape_ascii(),
                    meta.largest.escape_ascii(),
                    meta.smallest_seq,
                    meta.largest_seq
                ),
            )?,
            other => put(out, format_args!("    {other:?}\n"))?,
        }
    }
    Ok(())
}

fn dump_record(frames: &FrameReader<'_>, frame: &Frame, out: &mut dyn Write) -> Result<()> {
    let opened = open_record(&frame.bytes);
    let (header, mut operations) =
        opened.ok_or_else(|| frames.corruption(frame.offset, "a record is unreadable"))?;
    put(out, format_args!("    committed at {}\n", header.committed_at))?;
    let mut seq = header.first_seq.get();
    let unreadable = |fault: Unreadable| fault.into_error(frames.path(), frame.offset);
    while let Some(operation) = operations.next_operation().map_err(unreadable)? {
        let key = frame.bytes[operation.key].escape_ascii();
        let value = frame.bytes[operation.value].escape_ascii();
        let (kind, keyspace) = (operation.kind, operation.keyspace);
        put(out, format_args!("    {seq} {kind:?} keyspace {keyspace} \"{key}\" \"{value}\"\n"))?;
        seq += 1;
    }
    Ok(())
}

fn dump_table(vfs: &dyn Vfs, path: &Path, number: FileNumber, out: &mut dyn Write) -> Result<()> {
    let table = open_alone(vfs, path, number).map_err(|error| match error.kind() {
        ErrorKind::Corruption => {
            let len = vfs.metadata(path).map_or(0, |metadata| metadata.len);
            error.with_remark(&format!(
                "none of its {len} bytes is shown, because the index at its end is what finds the blocks"
            ))
        }
        _ => error,
    })?;
    dump_properties(table.properties()?, out)?;
    let (mut left_out_count, mut left_out_len, mut first_error) = (0, 0, None);
    let blocks_count = table.index()?.blocks_count();
    for block_index in 0..blocks_count {
        let span = table.index()?.span(block_index);
        put(out, format_args!("block @{}\n", span.start))?;
        match dump_block(&table, block_index, out) {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                let len = span.len_bytes();
                put(out, format_args!("    {len} bytes cannot be read: damaged\n"))?;
                left_out_count += 1;
                left_out_len += len;
                first_error.get_or_insert(error);
            }
            dumped => dumped?,
        }
    }
    let Some(error) = first_error else { return Ok(()) };
    let remark =
        format!("{left_out_count} of {blocks_count} blocks cannot be read, which are {left_out_len} bytes");
    Err(error.with_remark(&remark))
}

fn dump_block(table: &Arc<Table>, block_index: usize, out: &mut dyn Write) -> Result<()> {
    let block = table.load_block(block_index)?;
    let mut cursor = BlockCursor::default();
    cursor.enter(Arc::new(block));
    let damaged = |damaged| table.damaged(block_index, damaged);
    cursor.seek_to_first().map_err(damaged)?;
    while cursor.is_valid() {
        let key = cursor.key();
        let [code, ..] = key.tag.raw().to_le_bytes();
        let kind = key.tag.kind().map_or(format!("kind {code}"), |kind| format!("{kind:?}"));
        let (user_key, value) = (key.user_key.escape_ascii(), cursor.value().escape_ascii());
        put(out, format_args!("    {} {kind} \"{user_key}\" \"{value}\"\n", key.tag.seq()))?;
        cursor.next().map_err(damaged)?;
    }
    Ok(())
}

/// Writes the properties under the names that `docs/format/table.md` gives them.
fn dump_properties(properties: &Properties, out: &mut dyn Write) -> Result<()> {
    let key = |key: &OwnedKey| format!("\"{}\"", key.user_key.escape_ascii());
    let time = |time: UnixMillis| match time {
        UnixMillis::MIN | UnixMillis::MAX => "never".to_owned(),
        time => time.to_string(),
    };
    let lines = [
        ("keyspace", properties.keyspace.to_string()),
        ("comparator", properties.comparator.clone()),
        ("compression", format!("{:?}", properties.compression).to_lowercase()),
        ("created_at", properties.created_at.to_string()),
        ("entries", properties.entries_count.to_string()),
        ("deletes", properties.deletes_count.to_string()),
        ("range_deletes", properties.range_deletes_count.to_string()),
        ("expiring", properties.expiring_count.to_string()),
        ("expires_earliest", time(properties.expires_earliest)),
        ("expires_latest", time(properties.expires_latest)),
        ("smallest", key(&properties.smallest)),
        ("largest", key(&properties.largest)),
        ("seq_lowest", properties.seq_lowest.to_string()),
        ("seq_highest", properties.seq_highest.to_string()),
        ("keys_len", properties.keys_len_bytes.to_string()),
        ("values_len", properties.values_len_bytes.to_string()),
        ("data_blocks", properties.data_blocks_count.to_string()),
        ("data_len", properties.data_len_bytes.to_string()),
        ("data_raw_len", properties.data_raw_len_bytes.to_string()),
        ("features", format!("{:#x}", properties.features)),
    ];
    for (name, value) in lines {
        put(out, format_args!("{name:<17} {value}\n"))?;
    }
    Ok(())
}

/// Opens a table by itself, whatever order it is in.
fn open_alone(vfs: &dyn Vfs, path: &Path, number: FileNumber) -> Result<Arc<Table>> {
    let file = vfs.open(path)?;
    let len_bytes = file.len()?;
    let file = TableFile { source: TableSource::File(file), path: path.to_owned(), number, len_bytes };
    Ok(Arc::new(Table::open_to_show(file, Arc::new(Cache::new(0, 0)))?))
}
