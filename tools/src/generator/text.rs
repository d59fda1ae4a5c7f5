//! Prose as agents write it: words by Zipf's law, in sentences about a few things at a time.

use super::rng::Rng;

const COMMON: &str = "the to and a of in is it for that this with on as be are from not by an or \
if can will at we need now let me check see file code test function so when use all there which \
then have also one should into already after does but only its add new call value error because \
what more first each same where before run next make line return how just been using change no \
still would using until between without found works however same since instead";

const WORDS: &str = "session message handler request response stream event buffer timeout retry \
config option default module import export type interface struct field method argument parameter \
index table column query row transaction commit rollback migration schema version branch merge \
conflict commit patch diff review issue comment pipeline build deploy release package dependency \
lock thread task worker queue channel signal process memory cache store disk page block segment \
token model prompt context window response answer question result output input stdout stderr exit \
code status header body payload json parse serialize encode decode compress checksum digest hash \
client server daemon relay socket connection listener port address host route proxy gateway user \
permission role policy secret key certificate password login logout account profile setting theme \
button dialog panel view component state store action reducer effect hook render layout style \
color icon label list item tree node edge graph path folder directory root parent child sibling \
pattern match regex string number integer float boolean array object map set vector slice pointer \
reference owner borrow lifetime trait generic macro derive attribute lint warning failure panic \
assertion fixture mock snapshot coverage benchmark latency throughput percentile median budget \
limit threshold quota usage metric counter gauge trace span log level filter format template \
document section heading paragraph link image table footnote example tutorial guide reference \
implementation approach solution design architecture decision tradeoff constraint assumption risk \
edge case corner scenario behaviour regression bug fix workaround improvement refactoring cleanup \
currently correctly properly directly explicitly implicitly actually probably clearly carefully \
missing existing previous current remaining expected actual different similar empty valid invalid \
public private internal external local remote global static dynamic async sync parallel serial \
read write append insert update delete remove create rename move copy open close start stop wait \
handle return throw catch raise assert compare sort search find replace split join trim merge \
verify validate ensure confirm investigate understand explain describe document summarize list";

const OPENINGS: [&str; 14] = [
    "Let me",
    "Now I'll",
    "I can see that",
    "Looking at",
    "The issue is that",
    "First,",
    "Next, I need to",
    "It seems that",
    "Good,",
    "I'll start with",
    "This means that",
    "Now let me",
    "Perfect!",
    "The test shows that",
];

/// Generates words, names and paragraphs of one project.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    words: Vec<&'static str>,
    common: Vec<&'static str>,
    /// Names of this project: what its code is about.
    names: Vec<String>,
    /// What is talked about now: indices into `words`, moving slowly.
    topic: Vec<usize>,
}

impl Writer {
    /// A writer with names of its own.
    pub(super) fn new(rng: &mut Rng) -> Self {
        let words: Vec<_> = WORDS.split_whitespace().collect();
        let common = COMMON.split_whitespace().collect();
        let mut writer = Self {
            words,
            common,
            names: Vec::new(),
            topic: Vec::new(),
        };
        writer.names = (0..240).map(|_| writer.new_name(rng)).collect();
        writer.topic = (0..24).map(|_| rng.below(writer.words.len())).collect();
        writer
    }

    /// A word; some occur far more often than others.
    pub(super) fn word(&self, rng: &mut Rng) -> &'static str {
        match rng.below(20) {
            0..10 => self.common[zipf(rng, self.common.len())],
            10..16 => self.words[self.topic[zipf(rng, self.topic.len())]],
            _ => self.words[zipf(rng, self.words.len())],
        }
    }

    /// A name from the project's code, in `camelCase`.
    pub(super) fn name(&self, rng: &mut Rng) -> &str {
        &self.names[zipf(rng, self.names.len())]
    }

    /// Turns to something else, a little.
    pub(super) fn drift(&mut self, rng: &mut Rng) {
        let place = rng.below(self.topic.len());
        self.topic[place] = rng.below(self.words.len());
        let place = rng.below(self.names.len());
        if rng.chance(30) {
            self.names[place] = self.new_name(rng);
        }
    }

    fn new_name(&self, rng: &mut Rng) -> String {
        let mut name = (*rng.pick(&self.words)).to_owned();
        for _ in 0..rng.range(1, 2) {
            let word = *rng.pick(&self.words);
            name.push_str(&word[..1].to_uppercase());
            name.push_str(&word[1..]);
        }
        name
    }

    /// A sentence of about `words` words.
    pub(super) fn sentence(&self, rng: &mut Rng, words: usize) -> String {
        let mut text = if rng.chance(45) {
            (*rng.pick(&OPENINGS)).to_owned()
        } else {
            capital(self.word(rng))
        };
        for place in 0..words {
            if place > 0 && place + 2 < words && rng.chance(7) {
                text.push(',');
            }
            text.push(' ');
            if rng.chance(9) {
                text.push('`');
                text.push_str(self.name(rng));
                text.push('`');
            } else {
                text.push_str(self.word(rng));
            }
        }
        text.push(*rng.pick(&['.', '.', '.', ':', '.']));
        text
    }

    /// Sentences, sometimes with a list, of about `bytes` bytes.
    pub(super) fn prose(&self, rng: &mut Rng, bytes: usize) -> String {
        let mut text = String::new();
        while text.len() < bytes {
            if !text.is_empty() {
                text.push_str(if rng.chance(25) { "\n\n" } else { " " });
            }
            if rng.chance(10) {
                for number in 1..=rng.range(2, 5) {
                    let words = rng.range(4, 10);
                    let item = self.sentence(rng, words);
                    text.push_str(&format!("{number}. **{}**: {item}\n", self.name(rng)));
                }
            } else {
                let words = rng.range(6, 20);
                text.push_str(&self.sentence(rng, words));
            }
        }
        text
    }
}

/// An index below `bound`, small ones far more often (probability about 1/rank).
pub(super) fn zipf(rng: &mut Rng, bound: usize) -> usize {
    let rank = (bound as f64 + 1.0).powf(rng.unit());
    (rank as usize)
        .saturating_sub(1)
        .min(bound.saturating_sub(1))
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}
