//! Tokens and cost of a session, summed from its lines.
//!
//! An agent prints one `assistant` line per content block, all with the same message id and the
//! same (growing) usage, and a `result` line that sums the turn. Counting every line would inflate
//! the totals several times, so a message counts once, and a `result` replaces what its turn's
//! messages added. Other agents print the usage of the whole session so far; of these the last
//! counts. The sums are as good as what the agent prints: estimates, not an invoice.

use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::growth::TurnTimes;
use crate::title::Title;

/// Numbers of tokens.
///
/// Kept as a list in the order of the fields, without the zeros at its end: a session has up to three,
/// and there are stores of many small sessions. Objects with the fields' names are read as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Read by the model, not from a cache.
    pub input: u64,
    /// Written by the model.
    pub output: u64,
    /// Read from the prompt cache.
    pub cache_read: u64,
    /// Written to the prompt cache.
    pub cache_creation: u64,
}

impl Serialize for Tokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = [
            self.input,
            self.output,
            self.cache_read,
            self.cache_creation,
        ];
        let kept = fields
            .iter()
            .rposition(|&n| n > 0)
            .map_or(0, |last| last + 1);
        serializer.collect_seq(fields.iter().take(kept))
    }
}

impl Tokens {
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    fn sum(self) -> u64 {
        let read = self.input.saturating_add(self.cache_read);
        let written = self.output.saturating_add(self.cache_creation);
        read.saturating_add(written)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_creation: self.cache_creation.saturating_add(other.cache_creation),
        }
    }
}

/// What one line adds.
#[derive(Debug, Clone, PartialEq)]
pub enum UsageFact {
    /// `system`/`init`: an agent process began, and its costs count from zero, or an agent that reads
    /// its prompts from a stream begins another turn. The next `result` shows which.
    Initialized,
    /// An `assistant` line's `message.usage`.
    Assistant {
        /// `message.id`, the same for all lines of one message.
        message_id: String,
        /// Usage so far of that message.
        tokens: Tokens,
    },
    /// Usage of an agent process so far, as Codex prints it.
    SoFar {
        /// All its tokens.
        tokens: Tokens,
    },
    /// A `result` line.
    Result {
        /// Usage of the turn.
        tokens: Tokens,
        /// `total_cost_usd`: cost of the agent process so far.
        cost_usd: Option<f64>,
        /// `modelUsage`: tokens of the agent process so far, of all models.
        process_tokens: Option<u64>,
    },
}

/// Running sums of a session; kept as JSON in its row, without what says nothing, and under short names: a store
/// of many short sessions is mostly rows. Stores before format 3 have the fields' own names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionUsage {
    /// Turns that a `result` has settled.
    #[serde(
        rename = "s",
        alias = "settled",
        skip_serializing_if = "Tokens::is_zero"
    )]
    settled: Tokens,
    /// Messages since then, without the one that may still grow.
    #[serde(rename = "t", alias = "turn", skip_serializing_if = "Tokens::is_zero")]
    turn: Tokens,
    /// The message that may still grow, and its usage.
    #[serde(
        rename = "m",
        alias = "open_message_id",
        skip_serializing_if = "String::is_empty"
    )]
    open_message_id: String,
    #[serde(rename = "o", alias = "open", skip_serializing_if = "Tokens::is_zero")]
    open: Tokens,
    /// Cost of agent processes that have ended, and of the current one so far.
    #[serde(
        rename = "sc",
        alias = "settled_cost_usd",
        skip_serializing_if = "costs_nothing"
    )]
    settled_cost_usd: f64,
    #[serde(
        rename = "pc",
        alias = "process_cost_usd",
        skip_serializing_if = "costs_nothing"
    )]
    process_cost_usd: f64,
    /// Tokens of the current agent process so far, as it says itself; zero when it does not.
    #[serde(
        rename = "pt",
        alias = "process_tokens",
        skip_serializing_if = "is_zero"
    )]
    process_tokens: u64,
    /// An `init` came since the last `result` with a cost.
    #[serde(
        rename = "i",
        alias = "initialized",
        skip_serializing_if = "std::ops::Not::not"
    )]
    initialized: bool,
    /// Not usage, but also state between two imports of a stream: the turn that has not ended.
    #[serde(
        rename = "tt",
        alias = "turn_times",
        skip_serializing_if = "TurnTimes::is_empty"
    )]
    pub(crate) turn_times: TurnTimes,
    /// Not usage either: the last title in the lines.
    #[serde(rename = "n", alias = "title", skip_serializing_if = "Title::is_empty")]
    pub(crate) title: Title,
}

fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

/// Compares bits, because a negative zero must be written.
fn costs_nothing(usd: &f64) -> bool {
    usd.to_bits() == 0
}

impl SessionUsage {
    /// Adds what a line says.
    pub fn add(&mut self, fact: &UsageFact) {
        match fact {
            UsageFact::Initialized => self.initialized = true,
            UsageFact::Assistant { message_id, tokens } => {
                if *message_id != self.open_message_id {
                    self.turn = self.turn.plus(self.open);
                    self.open_message_id.clone_from(message_id);
                }
                self.open = *tokens;
            }
            UsageFact::SoFar { tokens } => {
                // Of a process that went on from another, which counts from zero, or of messages
                // that were counted one by one.
                if !self.open_message_id.is_empty() || tokens.sum() < self.open.sum() {
                    self.turn = self.turn.plus(self.open);
                    self.open_message_id.clear();
                }
                self.open = *tokens;
            }
            UsageFact::Result {
                tokens,
                cost_usd,
                process_tokens,
            } => {
                // An error result may carry no usage; then the turn's messages are what is known.
                let turn = if tokens.is_zero() {
                    self.turn.plus(self.open)
                } else {
                    *tokens
                };
                self.settled = self.settled.plus(turn);
                self.turn = Tokens::default();
                self.open = Tokens::default();
                self.open_message_id.clear();
                if let Some(cost) = cost_usd {
                    // A cost that falls comes from another process whose `init` we did not see.
                    let is_new_process = *cost < self.process_cost_usd
                        || (self.initialized && !self.goes_on(*process_tokens, turn));
                    if is_new_process {
                        self.settled_cost_usd += self.process_cost_usd;
                    }
                    self.process_cost_usd = *cost;
                    self.process_tokens = process_tokens.unwrap_or(0);
                    self.initialized = false;
                }
            }
        }
    }

    /// Whether the process that used `process_tokens` so far, and `turn` in its last turn, is the one whose
    /// result came before: then it says the sum of both. A new one says its turn's, and those of its
    /// sub-agents, who would have to use as many as the other process did.
    fn goes_on(&self, process_tokens: Option<u64>, turn: Tokens) -> bool {
        let with_turn = self.process_tokens.saturating_add(turn.sum());
        self.process_tokens > 0 && process_tokens.is_some_and(|tokens| tokens >= with_turn)
    }

    /// Tokens in all.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.settled.plus(self.turn).plus(self.open)
    }

    /// US dollars in all, as the agent reports them.
    #[must_use]
    pub fn cost_usd(&self) -> f64 {
        self.settled_cost_usd + self.process_cost_usd
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn tokens(output: u64) -> Tokens {
        Tokens {
            output,
            ..Tokens::default()
        }
    }

    fn assistant(id: &str, output: u64) -> UsageFact {
        UsageFact::Assistant {
            message_id: id.into(),
            tokens: tokens(output),
        }
    }

    #[test]
    fn a_message_printed_in_several_lines_counts_once() {
        let mut usage = SessionUsage::default();
        for fact in [
            assistant("a", 1),
            assistant("a", 8),
            assistant("b", 5),
            assistant("b", 5),
        ] {
            usage.add(&fact);
        }
        assert_eq!(usage.tokens().output, 13);
    }

    #[test]
    fn a_result_replaces_what_its_messages_added() {
        let mut usage = SessionUsage::default();
        usage.add(&assistant("a", 8));
        usage.add(&UsageFact::Result {
            tokens: tokens(9),
            cost_usd: Some(0.5),
            process_tokens: None,
        });
        usage.add(&assistant("b", 2));
        assert_eq!(usage.tokens().output, 11);
        assert!((usage.cost_usd() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn cost_accumulates_over_processes_not_within_one() {
        let mut usage = SessionUsage::default();
        let result = |cost| UsageFact::Result {
            tokens: tokens(1),
            cost_usd: Some(cost),
            process_tokens: None,
        };
        usage.add(&result(0.5));
        usage.add(&result(0.75));
        usage.add(&UsageFact::Initialized);
        usage.add(&result(0.25));
        usage.add(&result(0.1));
        assert!(
            (usage.cost_usd() - 1.1).abs() < 1e-9,
            "{}",
            usage.cost_usd()
        );
    }

    #[test]
    fn an_agent_that_initializes_at_each_turn_is_one_process() {
        let mut usage = SessionUsage::default();
        let mut turn = |cost, process_tokens| {
            usage.add(&UsageFact::Initialized);
            usage.add(&UsageFact::Result {
                tokens: tokens(30),
                cost_usd: Some(cost),
                process_tokens: Some(process_tokens),
            });
            usage.cost_usd()
        };
        // The second turn's 30 tokens and 7 of a small model beside it.
        for (cost, tokens) in [(0.25, 30), (0.5, 67), (0.75, 97)] {
            assert!((turn(cost, tokens) - cost).abs() < 1e-9);
        }
        // Another process, though it cost more than all before: it has used its own turn's tokens only.
        assert!((turn(2.0, 38) - 2.75).abs() < 1e-9);
        assert!((turn(2.5, 70) - 3.25).abs() < 1e-9);
    }

    #[test]
    fn of_sums_so_far_the_last_counts_until_one_falls() {
        let mut usage = SessionUsage::default();
        for output in [5, 5, 12] {
            let tokens = tokens(output);
            usage.add(&UsageFact::SoFar { tokens });
        }
        assert_eq!(usage.tokens().output, 12);
        for output in [3, 4] {
            let tokens = tokens(output);
            usage.add(&UsageFact::SoFar { tokens });
        }
        assert_eq!(usage.tokens().output, 16);
    }

    #[test]
    fn sums_survive_their_json() {
        let mut usage = SessionUsage::default();
        usage.add(&assistant("a", 8));
        let text = serde_json::to_string(&usage).unwrap();
        assert_eq!(serde_json::from_str::<SessionUsage>(&text).unwrap(), usage);
        assert_eq!(
            serde_json::from_str::<SessionUsage>("{}").unwrap(),
            SessionUsage::default()
        );
    }

    /// The row as it was written while it held every field under its name.
    fn in_full(usage: &SessionUsage) -> String {
        let named = |tokens: Tokens| {
            json!({
                "input": tokens.input,
                "output": tokens.output,
                "cache_read": tokens.cache_read,
                "cache_creation": tokens.cache_creation,
            })
        };
        let mut full = json!({
            "settled": named(usage.settled),
            "turn": named(usage.turn),
            "open_message_id": usage.open_message_id,
            "open": named(usage.open),
            "settled_cost_usd": usage.settled_cost_usd,
            "process_cost_usd": usage.process_cost_usd,
            "process_tokens": usage.process_tokens,
            "initialized": usage.initialized,
        });
        if !usage.turn_times.is_empty() {
            full["turn_times"] = serde_json::to_value(usage.turn_times).unwrap();
        }
        full.to_string()
    }

    #[test]
    fn nothing_takes_no_room() {
        assert_eq!(
            serde_json::to_string(&SessionUsage::default()).unwrap(),
            "{}"
        );
        let mut usage = SessionUsage::default();
        usage.add(&assistant("a", 8));
        assert_eq!(
            serde_json::to_string(&usage).unwrap(),
            r#"{"m":"a","o":[0,8]}"#
        );
    }

    fn any_tokens() -> impl Strategy<Value = Tokens> {
        let number = || prop_oneof![Just(0), any::<u64>()];
        (number(), number(), number(), number()).prop_map(
            |(input, output, cache_read, cache_creation)| Tokens {
                input,
                output,
                cache_read,
                cache_creation,
            },
        )
    }

    /// Costs as agents print them: of these the JSON reader gives back each bit.
    fn any_cost() -> impl Strategy<Value = f64> {
        prop_oneof![
            Just(0.0),
            Just(-0.0),
            (0..1_000_000_000_000_i64).prop_map(|micro| micro as f64 / 1e6)
        ]
    }

    proptest! {
        #[test]
        fn what_is_kept_reads_as_it_was_and_as_a_full_row(
            settled in any_tokens(),
            turn in any_tokens(),
            open_message_id in prop_oneof![Just(String::new()), any::<String>()],
            open in any_tokens(),
            settled_cost_usd in any_cost(),
            process_cost_usd in any_cost(),
            (process_tokens, initialized) in any::<(u64, bool)>(),
            turn_times in prop_oneof![
                Just("{}".to_owned()),
                any::<(Option<i64>, i64)>().prop_map(|(start_ms, active_ms)| {
                    json!({ "start_ms": start_ms, "active_ms": active_ms }).to_string()
                })
            ],
        ) {
            let usage = SessionUsage {
                settled,
                turn,
                open_message_id,
                open,
                settled_cost_usd,
                process_cost_usd,
                process_tokens,
                initialized,
                turn_times: serde_json::from_str(&turn_times).unwrap(),
                title: Title::default(),
            };
            let kept = serde_json::to_string(&usage).unwrap();
            for row in [kept, in_full(&usage)] {
                let read: SessionUsage = serde_json::from_str(&row).unwrap();
                let costs = |u: &SessionUsage| {
                    [u.settled_cost_usd.to_bits(), u.process_cost_usd.to_bits()]
                };
                prop_assert_eq!(costs(&read), costs(&usage));
                prop_assert_eq!(read, usage.clone());
            }
        }
    }
}
