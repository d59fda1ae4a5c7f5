-- Format 3. The last bytes of small deep segments stand in pieces of which eight fill a page. In a row of
-- `segments` they would leave a fifth of its page empty, because seldom two rows fit into one.
--
-- `segments.tier` of a segment with a tail is 2 + 4 * the tail's bytes: the rows of earlier formats have
-- none. The tail's pieces have the keys from `segment_key` on, and no more pieces than the segment has
-- messages, so that their keys never reach those of the next segment.
CREATE TABLE segment_tails (
    piece_key INTEGER PRIMARY KEY,
    bytes     BLOB NOT NULL
) STRICT;

-- `sessions.agent_session_id` is '=' if it is the session's own id, and '==' if it is '=', and so on.
-- `sessions.usage` has short names; the long ones of earlier formats are read as well.
