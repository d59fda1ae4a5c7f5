//! Real sessions when there are any, else generated ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use betcode_db::generator;
use bytes::Bytes;
use tempfile::TempDir;

/// A recorded session.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The folder of the corpus that it is from.
    pub folder: String,
    /// The whole file.
    pub file: Bytes,
    /// Its lines, without their line ends.
    pub lines: Vec<Bytes>,
}

/// Sessions to measure with.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// What it is, for the figures.
    pub name: &'static str,
    /// The sessions, in the order of their paths.
    pub sessions: Vec<Recorded>,
}

impl Corpus {
    /// The sessions below `BETCODE_CORPUS` (a folder, or one with `sessions.tar.zst`), or those
    /// of `../shared/corpus` beside the project; else 48 MB of generated ones.
    #[must_use]
    pub fn load() -> Self {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
        let named = std::env::var_os("BETCODE_CORPUS").map(PathBuf::from);
        let corpus = match named.or_else(|| beside.exists().then_some(beside)) {
            Some(path) => Self::real(&path),
            None => Self::generated(),
        };
        assert!(!corpus.sessions.is_empty(), "there are no sessions there");
        println!(
            "corpus: {}, {} sessions, {:.1} MB, {} lines",
            corpus.name,
            corpus.sessions.len(),
            corpus.bytes() as f64 / 1e6,
            corpus.lines().count()
        );
        corpus
    }

    fn real(path: &Path) -> Self {
        let archive = path.join("sessions.tar.zst");
        let unpacked: Option<TempDir> = archive.exists().then(|| {
            let to = tempfile::tempdir().unwrap();
            let status = Command::new("tar")
                .args(["--zstd", "-xf"])
                .arg(&archive)
                .arg("-C")
                .arg(to.path())
                .status()
                .unwrap();
            assert!(status.success(), "tar cannot unpack {}", archive.display());
            to
        });
        let root = unpacked.as_ref().map_or(path, TempDir::path);
        let root = &only_folder(root);
        let mut files = Vec::new();
        files_below(root, &mut files);
        files.sort();
        let sessions = files
            .iter()
            .map(|file| {
                let below = file.strip_prefix(root).unwrap();
                let folder = below.iter().next().unwrap().to_string_lossy();
                recorded(&folder, std::fs::read(file).unwrap())
            })
            .collect();
        Self {
            name: "real sessions",
            sessions,
        }
    }

    fn generated() -> Self {
        let sessions = (0..24)
            .flat_map(|seed| {
                [
                    recorded("transcripts", generator::transcript(seed, 1_000_000)),
                    recorded("streams", generator::stream(seed, 1_000_000)),
                ]
            })
            .collect();
        Self {
            name: "generated sessions",
            sessions,
        }
    }

    /// All lines, session by session.
    pub fn lines(&self) -> impl Iterator<Item = &Bytes> + Clone {
        self.sessions.iter().flat_map(|session| &session.lines)
    }

    /// Bytes of all lines.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lines().map(|line| line.len() as u64).sum()
    }

    /// The folders, in order.
    #[must_use]
    pub fn folders(&self) -> Vec<String> {
        let mut folders: Vec<_> = self.sessions.iter().map(|s| s.folder.clone()).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// The sessions of one folder.
    #[must_use]
    pub fn of_folder(&self, folder: &str) -> Self {
        Self {
            name: self.name,
            sessions: self
                .sessions
                .iter()
                .filter(|session| session.folder == folder)
                .cloned()
                .collect(),
        }
    }

    /// Messages of exactly `bytes` each, cut from the lines one after the other.
    #[must_use]
    pub fn messages_of(&self, bytes: usize, count: usize) -> Vec<Bytes> {
        let mut messages = Vec::with_capacity(count);
        let mut pending = Vec::with_capacity(2 * bytes);
        for line in self.lines().cycle() {
            pending.extend_from_slice(line);
            while pending.len() >= bytes {
                messages.push(Bytes::copy_from_slice(&pending[..bytes]));
                pending.drain(..bytes);
                if messages.len() == count {
                    return messages;
                }
            }
        }
        messages
    }
}

fn recorded(folder: &str, file: Vec<u8>) -> Recorded {
    let file = Bytes::from(file);
    let mut lines = Vec::new();
    let mut start = 0;
    while start < file.len() {
        let rest = &file[start..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let end = end.unwrap_or(rest.len());
        lines.push(file.slice(start..start + end));
        start += end + 1;
    }
    Recorded {
        folder: folder.to_owned(),
        file,
        lines,
    }
}

/// The folder with the sessions' folders: an archive may hold one folder around them all.
fn only_folder(root: &Path) -> PathBuf {
    let mut inside = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    match (inside.next(), inside.next()) {
        (Some(only), None) if only.is_dir() => only,
        _ => root.to_owned(),
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else if path.extension().is_some_and(|e| e != "md" && e != "zst") {
            files.push(path);
        }
    }
}
