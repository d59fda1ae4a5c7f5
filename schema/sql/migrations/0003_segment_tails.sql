-- Format 3: the last bytes of small deep segments stand in pieces of which eight fill a page. In a row of
-- `segments` they would leave a fifth of its page empty, because seldom two rows fit into one.
--
-- `segments.tier` of a segment with a tail is 2 + 4 * the tail's bytes: the rows of earlier formats have
-- none. The tail's pieces have the keys from `segment_key` on, and no more pieces than the segment has
-- messages, so that their keys never reach those of the next segment.
CREATE TABLE segment_tails (
    piece_key INTEGER PRIMARY KEY,
    bytes     BLOB NOT NULL
) STRICT;
