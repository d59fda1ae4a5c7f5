//! `betcode-db` as its users meet it: the real program on real files.

mod demo;
mod export;
mod import;
mod maintain;
mod output;
mod refusals;
mod tool;
