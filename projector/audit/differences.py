"""Differences: the topic held against the ledgers, id by id, as set algebra that DuckDB can spill.

One full join of events and ledger ids on all that they must share leaves over what has no partner: `spare` events and
`stray` ids, few where all is well. All else is said of those.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import duckdb

STEPS = 5
_CREATE = """
CREATE MACRO kind(code) AS (['a visit', 'an impression', 'a click', 'a conversion'])[code + 1];
CREATE TABLE findings (
    kind VARCHAR, remedy VARCHAR, detail VARCHAR, campaign BIGINT, code UTINYINT, id BLOB, partition INTEGER,
    position BIGINT, second BIGINT, place VARCHAR, verdict VARCHAR, reason VARCHAR, class VARCHAR);
CREATE TABLE bounds (partition INTEGER, head BIGINT, until BIGINT, finish BIGINT);
CREATE TABLE scope (campaign BIGINT);
CREATE TABLE unreadable (campaign BIGINT);
CREATE TABLE missing (
    campaign BIGINT, id BLOB, is_parked BOOLEAN, events BIGINT,
    first STRUCT(parked BOOLEAN, second BIGINT, partition INTEGER, "position" BIGINT, code UTINYINT, verdict VARCHAR,
        reason VARCHAR));

CREATE VIEW held AS
SELECT l.*, CASE
    WHEN finish IS NULL OR position < 0 OR position >= finish THEN 'nowhere'
    WHEN position < head THEN 'before'
    WHEN position >= until THEN 'past'
    ELSE 'inside' END AS span
FROM ledger l LEFT JOIN bounds USING (partition);

CREATE VIEW event AS
SELECT campaign, id, code, second, partition, position
FROM topic JOIN tags USING (tag) JOIN bounds USING (partition)
WHERE reason IS NULL AND position >= head AND position < until AND campaign IN (SELECT campaign FROM scope);
"""

_JOIN = """
CREATE TABLE loose AS
SELECT
    l.campaign, l.id, l.code, l.second, l.partition, l.position, l.place,
    e.campaign AS e_campaign, e.id AS e_id, e.code AS e_code, e.second AS e_second, e.partition AS e_partition,
    e.position AS e_position
FROM (SELECT * FROM held WHERE span = 'inside') l FULL JOIN event e
    ON l.partition = e.partition AND l.position = e.position AND l.campaign = e.campaign AND l.code = e.code
    AND l.id = e.id AND l.second = e.second
WHERE l.campaign IS NULL OR e.campaign IS NULL;
"""

_LOOSE = """
CREATE TABLE spare AS
SELECT e_campaign AS campaign, e_id AS id, e_code AS code, e_second AS second, e_partition AS partition,
    e_position AS position
FROM loose WHERE e_campaign IS NOT NULL;

CREATE TABLE stray AS
SELECT campaign, id, code, second, partition, position, place, 'inside' AS span FROM loose WHERE campaign IS NOT NULL
UNION ALL
SELECT campaign, id, code, second, partition, position, place, span FROM held WHERE span = 'nowhere';

DROP TABLE loose;

-- Every place in which a campaign holds an id that it has a spare event of.
CREATE TABLE cover AS
SELECT h.campaign, h.id, h.code, h.partition, h.position, h.place, h.span, s.campaign IS NOT NULL AS is_stray
FROM (SELECT * FROM held SEMI JOIN spare USING (campaign, id)) h
LEFT JOIN stray s USING (campaign, id, partition, position, place);

CREATE TABLE lacking AS SELECT * FROM spare ANTI JOIN cover USING (campaign, id);

"""

# Ids in more than one place: by hashes first, which are small, then exactly.
_TWIN = """
CREATE TABLE twin AS
SELECT * FROM held WHERE hash(id) IN (SELECT hash(id) FROM ledger GROUP BY 1 HAVING count(*) > 1);
"""

# A record that was parked for want of its tag or campaign is right where it is; anything else is a difference.
_MISSING = """
INSERT INTO missing
SELECT campaign, id, bool_and(is_parked) AS is_parked, count(*) AS events,
    min({'parked': is_parked, 'second': second, 'partition': partition, 'position': position, 'code': code,
          'verdict': verdict, 'reason': q_reason}) AS first
FROM (
    SELECT l.*, q.verdict, q.reason AS q_reason,
        coalesce(q.verdict = 'parked' AND
            q.reason IN ('unknown-tag', 'unknown-campaign', 'campaign-not-adopted'), FALSE) AS is_parked
    FROM lacking l LEFT JOIN quarantined q USING (partition, position))
GROUP BY campaign, id;

INSERT INTO findings
SELECT 'missing', CASE WHEN is_parked THEN 'projector quarantine retry' ELSE 'projector repair' END,
    CASE
        WHEN is_parked THEN 'parked; its tag and campaign are known by now'
        WHEN first.verdict IS NULL THEN 'in the topic, not in the ledger, and not in quarantine'
        ELSE 'in the topic, not in the ledger; quarantine says: ' || first.verdict || ', ' || first.reason
    END || CASE WHEN events > 1 THEN '; at ' || events || ' positions' ELSE '' END,
    campaign, first.code, id, first.partition, first.position, first.second, NULL, first.verdict, first.reason,
    CASE WHEN is_parked THEN 'parked' WHEN campaign IN (SELECT campaign FROM unreadable) THEN 'unread' ELSE 'finding'
    END
FROM missing;
"""

_STRAY = """
CREATE TEMP TABLE elsewhere AS
SELECT campaign, id, min({'partition': partition, 'position': position}) AS first
FROM event SEMI JOIN stray USING (campaign, id) GROUP BY campaign, id;

CREATE TEMP TABLE judged AS
SELECT s.*, t.code AS t_code,
    t.id = s.id AND t.reason IS NULL AND g.campaign = s.campaign AND t.code <> s.code AS is_other_kind,
    CASE
        WHEN s.span = 'nowhere' THEN 'the topic has no such position'
        WHEN t.partition IS NULL THEN 'the topic holds no record at that position'
        WHEN t.reason IS NOT NULL THEN 'the record at that position is no event: ' || t.reason
        WHEN t.id IS DISTINCT FROM s.id THEN 'the topic holds another id at that position'
        WHEN g.campaign IS NULL THEN 'its tag belongs to no campaign: ' || t.tag
        WHEN g.campaign <> s.campaign THEN 'its tag belongs to campaign ' || g.campaign
        ELSE 'counted with the second ' || s.second || '; the record has ' || t.second
    END || CASE
        WHEN e.first IS NOT NULL AND (e.first.partition <> s.partition OR e.first.position <> s.position)
        THEN '; the topic has this id at ' || e.first.partition || '/' || e.first.position
        ELSE '' END AS detail
FROM stray s
LEFT JOIN topic t ON t.partition = s.partition AND t.position = s.position AND s.span = 'inside'
LEFT JOIN tags g ON g.tag = t.tag
LEFT JOIN elsewhere e ON e.campaign = s.campaign AND e.id = s.id;

INSERT INTO findings
SELECT CASE WHEN is_other_kind THEN 'other-kind' ELSE 'foreign' END, 'projector rebuild',
    CASE WHEN is_other_kind THEN 'counted as ' || kind(code) || '; the topic has ' || kind(t_code)
        ELSE detail END,
    campaign, code, id, partition, position, second, place, NULL, NULL, 'finding'
FROM judged;
"""

_TWINS = """
CREATE TABLE twice AS
SELECT campaign, id, list({'code': code, 'second': second, 'partition': partition, 'position': position,
    'place': place} ORDER BY partition, position, place) AS places
FROM twin GROUP BY campaign, id HAVING count(*) > 1;

INSERT INTO findings
SELECT 'twice', 'projector rebuild',
    'in ' || array_to_string([p.place || ' (' || p.partition || '/' || p.position || ')' FOR p IN places], ' and in '),
    campaign, places[1].code, id, places[1].partition, places[1].position, places[1].second, places[1].place,
    NULL, NULL, 'finding'
FROM twice;

INSERT INTO findings
SELECT 'two-campaigns', CASE WHEN is_named THEN '' ELSE 'projector rebuild' END,
    'counted for campaigns '
    || array_to_string([c.campaign || ' (' || c.partition || '/' || c.position || ')' FOR c IN places], ' and ')
    || CASE WHEN is_named THEN '; the topic itself names it with tags of both' ELSE '' END,
    places[1].campaign, places[1].code, id, places[1].partition, places[1].position, places[1].second, places[1].place,
    NULL, NULL, 'finding'
FROM (
    SELECT w.id, bool_and(s.campaign IS NULL AND w.span IN ('inside', 'before')) AS is_named,
        list({'campaign': w.campaign, 'partition': w.partition, 'position': w.position, 'code': w.code,
            'second': w.second, 'place': w.place} ORDER BY w.campaign, w.partition, w.position, w.place) AS places
    FROM twin w LEFT JOIN stray s USING (campaign, id, partition, position, place)
    WHERE w.span <> 'past' GROUP BY w.id HAVING count(DISTINCT w.campaign) > 1);
"""

# What each side makes of a KPI. The topic's figure: ids with a partner, each once, and ids of spare events without one.
# `apart`: ids that the topic cannot show, for they stand before its head or past the checkpoint, and nowhere else.
_CELLS = """
CREATE TABLE matched_twice AS
SELECT campaign, code, id, second, row_number() OVER (PARTITION BY campaign, id ORDER BY partition, position) AS nth
FROM (SELECT w.* FROM twin w ANTI JOIN stray USING (campaign, id, partition, position, place) WHERE w.span = 'inside');

CREATE TABLE spare_only AS
SELECT s.campaign, s.id, coalesce(any_value(c.code), min({'second': s.second, 'code': s.code}).code) AS code,
    min(s.second) AS second, any_value(c.code) IS NOT NULL AS is_apart
FROM (SELECT * FROM spare
    ANTI JOIN (SELECT * FROM cover WHERE span = 'inside' AND NOT is_stray) USING (campaign, id)
    ANTI JOIN (SELECT * FROM missing WHERE is_parked) USING (campaign, id)) s
LEFT JOIN (SELECT * FROM cover WHERE span IN ('before', 'past')) c USING (campaign, id)
GROUP BY s.campaign, s.id;

CREATE TABLE cells AS
WITH of_ledger AS (
    SELECT campaign, code, count(*) AS ids, count(*) FILTER (WHERE span = 'inside') AS inside,
        count(*) FILTER (WHERE span IN ('before', 'past')) AS outside
    FROM held GROUP BY campaign, code),
strays AS (SELECT campaign, code, count(*) AS n FROM stray WHERE span = 'inside' GROUP BY campaign, code),
extras AS (SELECT campaign, code, count(*) AS n FROM matched_twice WHERE nth > 1 GROUP BY campaign, code),
spares AS (SELECT campaign, code, count(*) AS n FROM spare_only GROUP BY campaign, code),
covering AS (
    SELECT campaign, code, count(*) AS n FROM (SELECT DISTINCT campaign, id, code, partition, position, place
    FROM cover WHERE span IN ('before', 'past')) GROUP BY campaign, code),
keys AS (
    SELECT campaign, code FROM rows UNION SELECT campaign, code FROM spares UNION SELECT campaign, code FROM of_ledger)
SELECT k.campaign, k.code,
    coalesce(l.inside, 0) - coalesce(s.n, 0) - coalesce(x.n, 0) + coalesce(p.n, 0) AS topic,
    coalesce(l.ids, 0) AS ledger, coalesce(l.outside, 0) - coalesce(c.n, 0) AS apart,
    coalesce(r.opening, 0) AS opening, r.stats, r.rev IS NOT NULL AS has_ledger
FROM keys k
LEFT JOIN of_ledger l USING (campaign, code) LEFT JOIN strays s USING (campaign, code)
LEFT JOIN extras x USING (campaign, code) LEFT JOIN spares p USING (campaign, code)
LEFT JOIN covering c USING (campaign, code) LEFT JOIN rows r USING (campaign, code);
"""


class Bound(NamedTuple):
    """Of a partition: the first offset that is there, the one to stop before, and the topic's end after the ledgers."""

    head: int
    until: int
    finish: int


def differ(
    database: duckdb.DuckDBPyConnection,
    bounds: Mapping[int, Bound],
    scope: Iterable[int],
    unreadable: Iterable[int],
    read_quarantine: Callable[[], None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Fill `findings` with what differs by id, and `cells`, from the tables `topic`, `tags`, `ledger` and `rows`.

    `scope`: the campaigns that take part. `unreadable`: those whose ledger could not be read whole; what seems to be
    missing there is of class "unread". `read_quarantine` makes the table `quarantined`; called only if it is needed.
    `advance` hears of each of `STEPS` steps that is done.
    """
    database.execute(_CREATE)
    for partition, bound in bounds.items():
        database.execute("INSERT INTO bounds VALUES (?, ?, ?, ?)", [partition, *bound])
    database.execute("INSERT INTO scope SELECT unnest(?::BIGINT[])", [list(scope)])
    database.execute("INSERT INTO unreadable SELECT unnest(?::BIGINT[])", [list(unreadable)])
    for step in (_JOIN, _LOOSE, _TWIN):
        database.execute(step)
        advance(1)
    if _any(database, "lacking"):
        read_quarantine()
        database.execute(_MISSING)
    if _any(database, "stray"):
        database.execute(_STRAY)
    if _any(database, "twin"):
        database.execute(_TWINS)
    advance(1)
    database.execute(_CELLS)
    advance(1)


def _any(database: duckdb.DuckDBPyConnection, table: str) -> bool:
    return database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None
