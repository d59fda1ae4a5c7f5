//! Statements that may take minutes, which can be stopped.

use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;

use crate::error::{Result, StoreError};

/// How often a statement under way asks whether to go on.
const POLL: Duration = Duration::from_millis(100);

/// Does `work`, one long statement or several, on a thread of its own. `go_on` is called before it and several
/// times a second during it; when that returns `Break`, SQLite ends the statement.
///
/// # Errors
/// [`StoreError::Cancelled`] if `go_on` returned `Break`, whatever `work` returned.
pub(crate) fn interruptible<T: Send>(
    connection: &mut Connection,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
    work: impl FnOnce(&Connection) -> T + Send,
) -> Result<T> {
    if go_on().is_break() {
        return Err(StoreError::Cancelled);
    }
    let interrupt = connection.get_interrupt_handle();
    std::thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        let working = scope.spawn(move || {
            let result = work(connection);
            drop(ended);
            result
        });
        let mut cancelled = false;
        while end.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
            cancelled |= go_on().is_break();
            if cancelled {
                // Repeated, because an interrupt between two statements has no effect.
                interrupt.interrupt();
            }
        }
        match working.join() {
            Ok(_) if cancelled => Err(StoreError::Cancelled),
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Counts for hours.
    const LONG: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                        SELECT count(*) FROM n WHERE i < 1000000000000";

    fn count(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
        connection.query_row(sql, [], |row| row.get(0))
    }

    #[test]
    fn a_long_statement_ends_when_it_is_told_to_and_the_connection_goes_on() {
        let mut connection = Connection::open_in_memory().unwrap();
        let began = Instant::now();
        let mut asked = 0;
        let mut go_on = || {
            asked += 1;
            match asked < 3 {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let stopped = interruptible(&mut connection, &mut go_on, |c| count(c, LONG));
        assert!(matches!(stopped, Err(StoreError::Cancelled)));
        assert!(began.elapsed() < Duration::from_secs(60));
        let go_on = &mut || ControlFlow::Continue(());
        let counted = interruptible(&mut connection, go_on, |c| count(c, "SELECT 7"));
        assert_eq!(counted.unwrap().unwrap(), 7);
    }

    #[test]
    fn nothing_is_begun_that_is_stopped_before() {
        let mut connection = Connection::open_in_memory().unwrap();
        let stop = &mut || ControlFlow::Break(());
        let stopped = interruptible(&mut connection, stop, |_| panic!("it was begun"));
        assert!(matches!(stopped, Err::<(), _>(StoreError::Cancelled)));
    }
}
