//! The files that a session works on: code that is read, edited and read again.

use super::rng::Rng;
use super::text::{Writer, zipf};

/// Files kept; when a new one is opened beyond that, an old one is forgotten, so that a session
/// of any length takes bounded memory.
const FILES_MAX: usize = 48;

const FOLDERS: [&str; 10] = [
    "src",
    "src/core",
    "src/api",
    "src/storage",
    "src/components",
    "tests",
    "scripts",
    "packages/server/src",
    "packages/client/src",
    "docs",
];
const ENDINGS: [&str; 6] = ["ts", "rs", "py", "ts", "tsx", "md"];

/// One file.
#[derive(Debug, Clone)]
pub(super) struct SourceFile {
    /// Absolute path.
    pub(super) path: String,
    /// Lines.
    pub(super) lines: Vec<String>,
}

/// An edit: the lines before and after it.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    /// Absolute path.
    pub(super) path: String,
    /// First line changed, from 1.
    pub(super) line: usize,
    /// The old lines, joined.
    pub(super) old: String,
    /// The new lines, joined.
    pub(super) new: String,
}

/// A working directory with files.
#[derive(Debug, Clone)]
pub(super) struct Project {
    /// Its absolute path.
    pub(super) directory: String,
    files: Vec<SourceFile>,
}

impl Project {
    /// A project with a few files.
    pub(super) fn new(rng: &mut Rng, writer: &Writer) -> Self {
        let directory = format!("/home/dev/projects/{}", writer.name(rng));
        let mut project = Self {
            directory,
            files: Vec::new(),
        };
        for _ in 0..6 {
            project.create(rng, writer);
        }
        project
    }

    /// A file to look at: mostly one that was looked at before, sometimes a new one.
    pub(super) fn open(&mut self, rng: &mut Rng, writer: &Writer) -> SourceFile {
        if rng.chance(28) {
            self.create(rng, writer);
            return self.files.last().cloned().unwrap_or_else(|| self.nothing());
        }
        let recent = self.files.len() - 1 - zipf(rng, self.files.len());
        self.files[recent].clone()
    }

    /// Changes a few lines of a file.
    pub(super) fn edit(&mut self, rng: &mut Rng, writer: &Writer) -> Edit {
        let recent = self.files.len() - 1 - zipf(rng, self.files.len());
        let file = &mut self.files[recent];
        let from = rng.below(file.lines.len());
        let to = (from + rng.range(2, 10)).min(file.lines.len());
        let old = file.lines[from..to].join("\n");
        let mut new: Vec<String> = file.lines[from..to].to_vec();
        for line in &mut new {
            if rng.chance(25) {
                *line = statement(rng, writer, 4);
            }
        }
        if rng.chance(60) {
            let at = rng.below(new.len() + 1);
            new.splice(
                at..at,
                (0..rng.range(1, 8)).map(|_| statement(rng, writer, 4)),
            );
        }
        file.lines.splice(from..to, new.iter().cloned());
        // An edited file that only ever grows would outweigh everything in a long session.
        file.lines.truncate(900);
        Edit {
            path: file.path.clone(),
            line: from + 1,
            old,
            new: new.join("\n"),
        }
    }

    /// A new file with content.
    pub(super) fn create(&mut self, rng: &mut Rng, writer: &Writer) -> SourceFile {
        let ending = *rng.pick(&ENDINGS);
        let path = format!(
            "{}/{}/{}.{ending}",
            self.directory,
            rng.pick(&FOLDERS),
            writer.name(rng)
        );
        let mut lines = header(rng, writer);
        let wanted = rng.range(30, 320);
        while lines.len() < wanted {
            if ending == "md" {
                let length = rng.range(80, 400);
                lines.extend(writer.prose(rng, length).lines().map(str::to_owned));
                lines.push(String::new());
            } else {
                function(rng, writer, &mut lines);
            }
        }
        if self.files.len() == FILES_MAX {
            self.files.remove(rng.below(FILES_MAX / 2));
        }
        let file = SourceFile { path, lines };
        self.files.push(file.clone());
        file
    }

    fn nothing(&self) -> SourceFile {
        SourceFile {
            path: self.directory.clone(),
            lines: vec![String::new()],
        }
    }
}

impl SourceFile {
    /// The file as the agent's read tool shows it, with line numbers.
    #[must_use]
    pub(super) fn numbered(&self, first: usize, count: usize) -> String {
        let mut text = String::new();
        for (place, line) in self.lines.iter().enumerate().skip(first).take(count) {
            text.push_str(&format!("{:>6}→{line}\n", place + 1));
        }
        text
    }

    /// The file's content.
    #[must_use]
    pub(super) fn content(&self) -> String {
        self.lines.join("\n")
    }
}

fn header(rng: &mut Rng, writer: &Writer) -> Vec<String> {
    (0..rng.range(2, 9))
        .map(|_| {
            format!(
                "import {{ {}, {} }} from './{}';",
                writer.name(rng),
                writer.name(rng),
                writer.name(rng)
            )
        })
        .collect()
}

fn function(rng: &mut Rng, writer: &Writer, lines: &mut Vec<String>) {
    lines.push(String::new());
    lines.push("/**".to_owned());
    let words = rng.range(5, 14);
    lines.push(format!(" * {}", writer.sentence(rng, words)));
    lines.push(" */".to_owned());
    lines.push(format!(
        "export async function {}({}: {}, {}: string): Promise<{}> {{",
        writer.name(rng),
        writer.name(rng),
        writer.name(rng),
        writer.word(rng),
        writer.name(rng)
    ));
    for _ in 0..rng.range(3, 18) {
        let line = statement(rng, writer, 4);
        lines.push(line);
    }
    lines.push("}".to_owned());
}

fn statement(rng: &mut Rng, writer: &Writer, indent: usize) -> String {
    let (a, b, c) = (writer.name(rng), writer.name(rng), writer.name(rng));
    let word = writer.word(rng);
    let pad = " ".repeat(indent + 4 * zipf(rng, 3));
    let number = zipf(rng, 1000);
    match rng.below(10) {
        0 => format!("{pad}const {a} = await {b}({c}, '{word}');"),
        1 => format!("{pad}if ({a}.{word} === {number}) {{"),
        2 => format!("{pad}return {a}.{b}({word});"),
        3 => format!(
            "{pad}throw new Error(`{} ${{{a}}}`);",
            writer.sentence(rng, 5)
        ),
        4 => format!("{pad}// {}", writer.sentence(rng, 9)),
        5 => format!("{pad}{a}.{b} = {c}.map(({word}) => {word}.{a} ?? {number});"),
        6 => format!("{pad}for (const {word} of {a}.{b}) {{"),
        7 => format!("{pad}expect({a}({number}).{b}).toBe({number});"),
        8 => format!("{pad}}}"),
        _ => format!("{pad}console.log('{word} {a}', {b}.{c}, {number});"),
    }
}
