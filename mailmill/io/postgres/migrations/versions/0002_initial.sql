-- The first schema of mailmill. Sections follow the way of the data.
-- Every table of a tenant carries tenant_id, and row-level security is on for it (end of this file).

-- ---------------------------------------------------------------- configuration (mailmill apply)

CREATE TABLE tenants (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slug text NOT NULL UNIQUE,
  name text NOT NULL,
  postal_address text NOT NULL,
  time_zone text NOT NULL DEFAULT 'UTC',
  spec jsonb NOT NULL,                          -- the YAML document as applied, defaults filled in
  rules_version text NOT NULL DEFAULT '',       -- of the rules by which all of its contacts were last examined again
  erasures bigint NOT NULL DEFAULT 0,           -- so far: who read before one of them may hold what it took out
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE sources (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  slug text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('csv', 'scraper_pro', 'backlink_engine', 'manual')),
  priority smallint NOT NULL DEFAULT 0,         -- higher wins where sources disagree about a field
  spec jsonb NOT NULL,
  cursor jsonb,                                 -- how far an HTTP source was read; moves with the rows it covers
  walk_from bigint,                             -- first batch of a walk from its beginning that was not compared yet
  walk_until bigint,                            -- and the last one, once there is one
  walk_absent bigint,                           -- contacts it did not show, where a person has to say whether it is meant
  last_error text,                              -- of its last import, null when that went well
  last_error_at timestamptz,
  retry_at timestamptz,                         -- before then an API does not want to be asked again, or what
                                                -- failed for a passing reason is not tried again
  deleted_at timestamptz,                       -- its contacts still name it; applying it again brings it back
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, slug)
);

CREATE TABLE transports (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  slug text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('smtp', 'sandbox')),
  spec jsonb NOT NULL,                          -- secrets are references (env:, file:), never values
  held_at timestamptz,                          -- set by a route fault; nothing is claimed for it until released
  held_reason text,
  held_for jsonb NOT NULL DEFAULT '{}',         -- mailbox provider or recipient domain -> why nothing goes there until released
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, slug)
);

CREATE TABLE identities (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  slug text NOT NULL,
  spec jsonb NOT NULL,                          -- from_name, from_address, reply_to, return_path_domain
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, slug)
);

CREATE TABLE templates (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  slug text NOT NULL,
  spec jsonb NOT NULL,                          -- subject, html, text: the sources themselves
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, slug)
);

CREATE TABLE segments (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  slug text NOT NULL,
  spec jsonb NOT NULL,                          -- name, rule
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, slug)
);

-- Keys that sign what goes out and comes back. Made once, rotated by id, in the backup; old ones verify for a year.
CREATE TABLE signing_keys (
  id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  purpose text NOT NULL CHECK (purpose IN ('tracking', 'unsubscribe', 'return_path', 'suppression')),
  secret bytea NOT NULL CHECK (octet_length(secret) = 32),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  retired_at timestamptz                        -- signs nothing new from then on
);

CREATE TABLE api_keys (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int REFERENCES tenants,             -- null: the operator's key, sees every tenant
  name text NOT NULL,
  prefix text NOT NULL UNIQUE,                  -- the first characters, to find the row; no secret
  hash bytea NOT NULL,                          -- sha256 of the whole key
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  revoked_at timestamptz
);

-- ---------------------------------------------------------------- ingest

-- held: a person has to agree to its columns; removed: what it said was taken back with its source, its rows are gone
CREATE TYPE batch_state AS ENUM ('held', 'raw', 'validated', 'loaded', 'discarded', 'removed');

CREATE TABLE batches (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  source_id int NOT NULL REFERENCES sources,
  key text NOT NULL,                            -- sha256 of the content: the same file twice is one batch; an API may
                                                -- say again what it said before another batch, `…:after:<that batch>`
  origin text NOT NULL,                         -- file name, URL with its cursor, or 'manual'
  state batch_state NOT NULL DEFAULT 'raw',
  seen_at timestamptz NOT NULL,                 -- when the source said so; the recency of its values
  seen_from timestamptz,                        -- the earliest of its rows that were loaded
  rows_read bigint NOT NULL DEFAULT 0,
  rows_accepted bigint NOT NULL DEFAULT 0,
  rows_rejected bigint NOT NULL DEFAULT 0,
  duplicates_within bigint NOT NULL DEFAULT 0,  -- rows of this batch that named a contact of this batch again
  duplicates_across bigint NOT NULL DEFAULT 0,  -- rows that named a contact another batch had brought
  contacts_new bigint NOT NULL DEFAULT 0,
  contacts_changed bigint NOT NULL DEFAULT 0,
  reject_reasons jsonb NOT NULL DEFAULT '{}',
  rules text NOT NULL DEFAULT '',               -- fingerprint of those it was divided by
  loaded_at timestamptz,
  UNIQUE (source_id, key)
);
CREATE INDEX batches_open ON batches (source_id, id) WHERE state <> 'loaded';

CREATE TABLE contacts (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL,                       -- no reference: it costs a look-up a row, half the time of a load
  match_key text NOT NULL,                      -- address with folded case, else the phone number: one person, one contact
  email text,                                   -- domain lower-cased and IDNA-encoded, local part as typed
  phone text,                                   -- E.164
  name text,
  language text,                                -- ISO 639-1, lower case
  category text,
  country text,                                 -- ISO 3166-1 alpha-2, upper case
  time_zone text,
  tags text[] NOT NULL DEFAULT '{}',
  fields jsonb NOT NULL DEFAULT '{}',           -- custom fields: name -> text
  -- field name -> [priority, seen_at in us, source_id, batch_id] of the value that won; the greatest wins, so order cannot
  -- matter. Custom fields stand as 'fields.<name>', tags as 'tags.<tag>'; '*' stands for every value that is not named.
  -- While its source goes on saying the same, a value counts as of the source's last word (sightings)
  provenance jsonb NOT NULL,
  verdict text NOT NULL DEFAULT 'valid' CHECK (verdict IN ('valid', 'risky', 'invalid')),
  verdict_reason text,                          -- e.g. role_address, disposable_domain
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, match_key) INCLUDE (id),   -- whose id a row asks for is found without the contact, in a page less
  CHECK (email IS NOT NULL OR phone IS NOT NULL)
);

-- Who saw which contacts when: a row a source and 64 contacts, so that a list that comes again unchanged rewrites some
-- thousand rows and no contact. Arrays run in parallel with ids; one element stands for all. Times are epoch microseconds.
-- What lone_sightings says of one of these contacts counts in the place of what stands here.
CREATE TABLE sightings (
  block bigint NOT NULL,                        -- contacts.id >> 6
  source_id int NOT NULL,
  tenant_id int NOT NULL,
  ids bigint[] NOT NULL,                        -- of contacts, rising
  first_seen bigint[] NOT NULL,
  last_seen bigint[] NOT NULL,
  first_batch bigint[] NOT NULL,
  last_batch bigint[] NOT NULL,
  said_seen bigint[] NOT NULL,                  -- since when, and since which batch, it has said what it says now
  said_batch bigint[] NOT NULL,
  digest bigint[] NOT NULL,                     -- 64 bits of what it says now
  PRIMARY KEY (block, source_id)
);

-- The newer sightings of contacts that stand in a block, where a batch named too few of it to rewrite the block: so new
-- rows cost the same however many contacts there are. Now and then a block takes in what it has collected.
CREATE TABLE lone_sightings (
  contact_id bigint NOT NULL,
  source_id int NOT NULL,
  tenant_id int NOT NULL,
  first_seen bigint NOT NULL,
  last_seen bigint NOT NULL,
  first_batch bigint NOT NULL,
  last_batch bigint NOT NULL,
  said_seen bigint NOT NULL,
  said_batch bigint NOT NULL,
  digest bigint NOT NULL,
  PRIMARY KEY (contact_id, source_id)
);

CREATE VIEW contact_sources WITH (security_invoker = true) AS
SELECT u.id AS contact_id, s.source_id, s.tenant_id,
       timestamptz 'epoch' + coalesce(l.first_seen, u.first_seen, s.first_seen[1]) * interval '1 microsecond' AS first_seen,
       timestamptz 'epoch' + coalesce(l.last_seen, u.last_seen, s.last_seen[1]) * interval '1 microsecond' AS last_seen,
       coalesce(l.first_batch, u.first_batch, s.first_batch[1]) AS first_batch_id,
       coalesce(l.last_batch, u.last_batch, s.last_batch[1]) AS last_batch_id,
       s.block                                  -- name it in a condition, else every sighting is looked at
  FROM sightings s CROSS JOIN LATERAL unnest(s.ids, s.first_seen, s.last_seen, s.first_batch, s.last_batch)
       u (id, first_seen, last_seen, first_batch, last_batch)
  LEFT JOIN lone_sightings l ON l.contact_id = u.id AND l.source_id = s.source_id;

-- What DNS said of the mail of a domain. It belongs to no tenant: names of domains, and nothing about a person.
CREATE TABLE domains (
  name text PRIMARY KEY,                        -- lower case, IDNA-encoded
  state text NOT NULL CHECK (state IN ('mx', 'implicit_mx', 'null_mx', 'not_found', 'no_mail', 'unknown')),
  provider text,                                -- who runs its mailboxes, by its mail exchangers
  exchangers text[] NOT NULL DEFAULT '{}',      -- the preferred first
  checked_at timestamptz NOT NULL,              -- when DNS last gave an answer
  expires_at timestamptz NOT NULL,              -- when it is to be asked again
  tries smallint NOT NULL DEFAULT 0,            -- how often in a row DNS gave no answer
  problem text,                                 -- of the last try: timeout, servfail, refused …
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp()   -- when state or provider last became another
);

-- A source's last word about a contact: it has it no more. A contact all of whose sources say so is mailed by nobody.
CREATE TABLE withdrawals (
  contact_id bigint NOT NULL REFERENCES contacts ON DELETE CASCADE,
  source_id int NOT NULL,
  tenant_id int NOT NULL,
  batch_id bigint NOT NULL,                     -- which said so; 0: a person deleted the source
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (contact_id, source_id)
);
CREATE INDEX withdrawals_source ON withdrawals (source_id);

-- A file of the lake is visible because it stands here, never because it lies in a folder.
CREATE TABLE manifest (
  file text PRIMARY KEY,                        -- path below the lake's root
  tenant_id int NOT NULL REFERENCES tenants,
  dataset text NOT NULL,                        -- raw, validated, rejected, contacts, segments, audiences, messages, events …
  part text NOT NULL DEFAULT '',                -- what the dataset is divided by: source, segment or campaign slug
  batch_id bigint,
  rows bigint NOT NULL,
  bytes bigint NOT NULL,
  facts jsonb NOT NULL DEFAULT '{}',            -- e.g. as_of, exclusions, offset ranges
  published_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX manifest_dataset ON manifest (tenant_id, dataset, part);

-- ---------------------------------------------------------------- suppression

-- What makes several addresses one mailbox, as a tenant's `merge:` says; null where nothing does.
CREATE FUNCTION mailbox_rule(tenant int) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT spec -> 'merge' FROM tenants
   WHERE id = tenant AND (spec #>> '{merge,plus_tags}' = 'true' OR spec #> '{merge,dots,0}' IS NOT NULL)
$$;
-- By what a rule tells mailboxes apart (pipelines/ingest/persons.py: mailbox); a number, and what is in quotes, is its own.
CREATE FUNCTION mailbox_of(key text, rule jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN key NOT LIKE '%@%' OR key LIKE '%@%@%' OR key LIKE '"%' THEN key
    ELSE coalesce(nullif(translate(split_part(split_part(key, '@', 1), CASE WHEN rule ->> 'plus_tags' = 'true' THEN '+' ELSE '@' END, 1),
                                   CASE WHEN rule -> 'dots' ? split_part(key, '@', 2) THEN '.' ELSE '' END, ''), ''),
                  split_part(key, '@', 1)) || '@' || split_part(key, '@', 2) END
$$;
-- The same for all addresses that any rule makes one mailbox, and for some that it does not: an index's first sieve.
CREATE FUNCTION near_mailbox(key text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(nullif(split_part(replace(split_part(key, '@', 1), '.', ''), '+', 1), ''),
                  replace(split_part(key, '@', 1), '.', '')) || '@' || split_part(key, '@', 2)
$$;

CREATE TABLE suppressions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int REFERENCES tenants,             -- null: the operator's, for every tenant; ingress and stats do not see it
  channel text NOT NULL DEFAULT 'email' CHECK (channel IN ('email', 'phone')),
  address_key text NOT NULL,                    -- as contacts.match_key; of a forgotten person '<key id>:<keyed hash>'
  reason text NOT NULL CHECK (reason IN ('unsubscribed', 'complained', 'bounced', 'imported', 'manual', 'forgotten')),
  scope_campaign_id int,                        -- null: for the whole tenant
  event_id text,                                -- the delivery event it follows from
  note text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),   -- when it was said
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),  -- when it began to keep mail away
  expires_at timestamptz,
  near text NOT NULL GENERATED ALWAYS AS (near_mailbox(address_key)) STORED,
  CHECK (expires_at IS NULL OR reason NOT IN ('unsubscribed', 'complained', 'forgotten')),
  CHECK (scope_campaign_id IS NULL OR tenant_id IS NOT NULL AND reason <> 'forgotten'),
  -- the address leads: it is asked for by (tenant or the operator, address), and few tenants share one
  UNIQUE NULLS NOT DISTINCT (channel, address_key, tenant_id, reason, scope_campaign_id)
);
CREATE INDEX suppressions_tenant ON suppressions (tenant_id);
CREATE INDEX suppressions_near ON suppressions (near);
CREATE INDEX suppressions_forgotten ON suppressions (tenant_id, id) WHERE reason = 'forgotten';

-- Suppressions that were taken back or replaced, so that a contact's history can be read.
CREATE TABLE suppression_removals (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int REFERENCES tenants,
  channel text NOT NULL,
  address_key text NOT NULL,
  reason text NOT NULL,
  scope_campaign_id int,
  event_id text,
  note text,
  suppressed_at timestamptz NOT NULL,
  removed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  removed_by text NOT NULL,
  why text,
  CHECK (why IS NOT NULL OR reason NOT IN ('unsubscribed', 'complained'))
);
CREATE INDEX suppression_removals_address ON suppression_removals (address_key, channel);
CREATE INDEX suppression_removals_near ON suppression_removals (near_mailbox(address_key));

-- ---------------------------------------------------------------- consent
-- Append only. Of one person where address_key names it; of every row of a batch where it is null, so that a list whose
-- source vouches for all of it costs one row. That counts for whom a sighting names the batch as first or last; once it does
-- so no longer, and the last one says something else, it is written for each person (of_list). A list never takes back what
-- a person withdrew (consents_of below).
CREATE TABLE consents (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  channel text NOT NULL DEFAULT 'email' CHECK (channel IN ('email', 'phone')),
  address_key text,                             -- as contacts.match_key; null: of the whole batch
  status text NOT NULL CHECK (status IN ('granted', 'withdrawn')),
  basis text CHECK (basis IN ('consent', 'contract', 'legal_obligation', 'vital_interests', 'public_task', 'legitimate_interests')),
  proof text,                                   -- where it can be shown: a form, a version of a text, a ticket
  source_id int,
  batch_id bigint,
  at timestamptz NOT NULL,                      -- when it was given or withdrawn
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  recorded_by text NOT NULL,                    -- a person, or 'ingest'
  of_list boolean NOT NULL DEFAULT false,       -- a source's word for all of a batch
  CHECK (address_key IS NOT NULL OR batch_id IS NOT NULL AND status = 'granted'),
  CHECK (status = 'withdrawn' OR basis IS NOT NULL)
);
-- what a batch says it says once, however often it is loaded; people may say several things at one time
CREATE UNIQUE INDEX consents_batch ON consents (batch_id) WHERE address_key IS NULL;
CREATE UNIQUE INDEX consents_row ON consents (batch_id, address_key, status, at, basis, hashtextextended(proof, 0), of_list, tenant_id)
  NULLS NOT DISTINCT WHERE address_key IS NOT NULL AND batch_id IS NOT NULL;
CREATE INDEX consents_address ON consents (address_key, tenant_id) WHERE address_key IS NOT NULL;

-- ---------------------------------------------------------------- tags and custom fields

CREATE TABLE tags (
  tenant_id int NOT NULL REFERENCES tenants,
  slug text NOT NULL,
  spec jsonb NOT NULL DEFAULT '{}',             -- the YAML document, if there is one: description
  deleted_at timestamptz,                       -- then no contact has it and no load brings it back
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, slug)
);

CREATE TABLE fields (
  tenant_id int NOT NULL REFERENCES tenants,
  slug text NOT NULL,
  spec jsonb NOT NULL,                          -- type, values, description
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, slug)
);

-- One row, raised by every suppression, pause, cancel and release. Workers look at it several times a second.
CREATE TABLE change_number (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  n bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO change_number DEFAULT VALUES;

-- ---------------------------------------------------------------- target and send

CREATE TYPE campaign_state AS ENUM
  ('draft', 'scheduled', 'planning', 'running', 'paused', 'finished', 'cancelled', 'failed', 'missed');

CREATE TABLE campaigns (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  slug text NOT NULL,
  spec jsonb NOT NULL,
  state campaign_state NOT NULL DEFAULT 'draft',
  scheduled_at timestamptz,
  ends_at timestamptz,                          -- nothing starts after it
  transport_id int REFERENCES transports,       -- set, with all below, when the campaign is planned
  content jsonb,                                -- frozen template, identity, merge fields, window
  as_of timestamptz,                            -- of the contacts generation the audience was taken from
  first_message_id bigint,
  planned bigint,
  started_at timestamptz,
  finished_at timestamptz,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, slug)
);
CREATE INDEX campaigns_due ON campaigns (scheduled_at) WHERE state = 'scheduled';

CREATE TABLE campaign_transitions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES tenants,
  campaign_id int NOT NULL REFERENCES campaigns,
  from_state campaign_state NOT NULL,
  to_state campaign_state NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  by text NOT NULL,                             -- person, worker, schedule
  reason text
);

-- Contacts that a person added to a campaign besides its segment, or took out, until its audience is frozen.
CREATE TABLE campaign_recipients (
  campaign_id int NOT NULL REFERENCES campaigns,
  contact_id bigint NOT NULL REFERENCES contacts ON DELETE CASCADE,   -- who is forgotten is in no list
  tenant_id int NOT NULL,
  added boolean NOT NULL,                       -- false: taken out
  PRIMARY KEY (campaign_id, contact_id)
);
CREATE INDEX campaign_recipients_contact ON campaign_recipients (contact_id);

-- Why contacts of the segment are not in the audience; one row a reason.
CREATE TABLE exclusions (
  campaign_id int NOT NULL REFERENCES campaigns,
  tenant_id int NOT NULL REFERENCES tenants,
  reason text NOT NULL,
  n bigint NOT NULL,
  PRIMARY KEY (campaign_id, reason)
);

CREATE TABLE links (
  campaign_id int NOT NULL REFERENCES campaigns,
  ordinal smallint NOT NULL,
  tenant_id int NOT NULL REFERENCES tenants,
  url text NOT NULL,
  PRIMARY KEY (campaign_id, ordinal)
);

CREATE TYPE message_state AS ENUM
  ('queued', 'leased', 'deferred', 'held', 'sent', 'failed', 'invalid', 'suppressed', 'cancelled', 'expired', 'in_doubt');

-- How a message ends: one that is sent again after a doubt may have been delivered by then, whatever stops it later.
CREATE FUNCTION end_of(doubted boolean, wanted message_state) RETURNS message_state LANGUAGE sql IMMUTABLE AS
  $$ SELECT CASE WHEN doubted AND wanted IN ('failed', 'invalid', 'suppressed', 'cancelled', 'expired') THEN 'in_doubt' ELSE wanted END $$;

-- The ledger: one row per recipient of a campaign. Two writers: `state` and what stands beside it is the sender's,
-- everything named at_* and below is the fold's.
CREATE TABLE messages (
  id bigint PRIMARY KEY,                        -- contiguous within a campaign, from message_ids
  tenant_id int NOT NULL,
  campaign_id int NOT NULL,                     -- no foreign key: checking it took half the time of filling the ledger
  contact_id bigint NOT NULL,
  address text,                                 -- as it goes to RCPT TO; blank after `forget`
  address_key text NOT NULL,                    -- what a suppression names
  aliases text[],                               -- the person's other keys by the tenant's rule, which it may name as well
  domain text NOT NULL,
  provider text,                                -- who runs the mailbox, as far as its domain's name or MX said
  state message_state NOT NULL DEFAULT 'queued',
  queued boolean NOT NULL DEFAULT true,         -- queued, deferred or held; the claim's index looks at this, so that updates of state stay HOT
  doubted boolean NOT NULL DEFAULT false,       -- it was in doubt and is sent again: unless a relay takes it, that is how it ends
  due_at timestamptz NOT NULL DEFAULT '-infinity',
  attempt smallint NOT NULL DEFAULT 0,          -- attempts begun
  variant smallint NOT NULL DEFAULT 0,          -- which of campaigns.content -> 'variants' this recipient gets
  lease_token bigint,
  transport_id int,
  code smallint,                                -- of the last answer
  reason text,                                  -- why it is in this state, a code: bad_mailbox, render_error …
  reply text,                                   -- of the last answer, addresses masked, cut at 500 characters
  done_at timestamptz,                          -- when it came into a terminal state
  -- first time of each fact, epoch seconds; null: not known to have happened
  at_accepted int, at_failed int, at_delivered int, at_bounced_soft int, at_bounced_hard int, at_complained int,
  at_opened int, at_clicked int, at_unsubscribed int, at_replied int, at_forwarded int,
  at_machine_opened int, at_machine_clicked int,
  clicked_links bigint NOT NULL DEFAULT 0,      -- bit per link ordinal; 62 stands for every further one
  seen bigint[],                                -- keys of what may repeat or suppresses: 56 bits of the event id, 4 of the kind; at most 256
  outcome text GENERATED ALWAYS AS (
    CASE WHEN at_complained IS NOT NULL THEN 'complained' WHEN at_bounced_hard IS NOT NULL THEN 'bounced_hard'
         WHEN at_bounced_soft IS NOT NULL THEN 'bounced_soft' WHEN at_delivered IS NOT NULL THEN 'delivered'
         ELSE 'none' END) VIRTUAL
) WITH (fillfactor = 50);
-- queued is true for queued, deferred and held; what is due comes first, so that a claim passes over nothing
CREATE INDEX messages_queued ON messages (campaign_id, due_at, id) WHERE queued;
CREATE INDEX messages_contact ON messages (contact_id);

CREATE TABLE message_ids (one boolean PRIMARY KEY DEFAULT true CHECK (one), next bigint NOT NULL);
INSERT INTO message_ids (next) VALUES (1);

-- The merge values of each message, frozen with the audience and written once. 0x1f separates them, in the order of
-- campaigns.content -> 'merge_fields'.
CREATE TABLE message_fields (
  message_id bigint PRIMARY KEY,
  tenant_id int NOT NULL,
  merge_values text NOT NULL
);

CREATE TABLE attempts (
  message_id bigint NOT NULL,
  attempt smallint NOT NULL,
  tenant_id int NOT NULL,
  at timestamptz NOT NULL,
  transport_id int NOT NULL,
  connection text NOT NULL,                     -- worker and number of the connection
  stage text NOT NULL,                          -- connect, mail, rcpt, data, dot, render …
  code smallint NOT NULL,                       -- 0: no answer
  enhanced text,
  reply text NOT NULL,
  latency_ms int NOT NULL,
  PRIMARY KEY (message_id, attempt)
);

CREATE TABLE workers (
  name text PRIMARY KEY,
  host text NOT NULL,
  boot_id text NOT NULL,
  pid int NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,                         -- in trouble: who ended well leaves no row
  campaigns text[],                             -- tenant/campaign of those that it is to send; null: all
  troubles jsonb NOT NULL DEFAULT '{}',         -- what (tenant/transport, 'campaign tenant/campaign' …) -> why; at its end, if it ended
  doing jsonb NOT NULL DEFAULT '{}'             -- rate, in_flight, bound_by: what it said last, about once a second
);

CREATE TABLE leases (
  token bigint PRIMARY KEY,                     -- random; also the name of the worker's journal file
  worker text NOT NULL,
  campaign_id int NOT NULL REFERENCES campaigns,
  tenant_id int NOT NULL,
  first_id bigint NOT NULL,                     -- its rows lie between these, so that finding them needs no index on the token
  last_id bigint NOT NULL,
  claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  until timestamptz NOT NULL,                   -- by the database's clock; the worker renews it
  reserved jsonb NOT NULL DEFAULT '{}'          -- period -> start of the window in which its messages count (budgets)
);

-- What a limit has left in a window. Reserved at the claim, given back when unused.
CREATE TABLE budgets (
  transport_id int NOT NULL REFERENCES transports,
  tenant_id int NOT NULL,
  period text NOT NULL CHECK (period IN ('minute', 'day')),
  starts_at timestamptz NOT NULL,
  used bigint NOT NULL,
  PRIMARY KEY (transport_id, period, starts_at)
);

-- ---------------------------------------------------------------- listen

-- The event log in PostgreSQL; with Kafka it is the outbox of what the sender writes in its own transaction.
-- Offsets have no gaps and become visible in order: whoever appends holds the partition's head until it commits.
CREATE TABLE log (
  topic text NOT NULL,
  part smallint NOT NULL,
  off bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  val bytea NOT NULL,
  PRIMARY KEY (part, topic, off)
) PARTITION BY LIST (part);
CREATE TABLE log_0 PARTITION OF log FOR VALUES IN (0);
CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1);
CREATE TABLE log_2 PARTITION OF log FOR VALUES IN (2);
CREATE TABLE log_3 PARTITION OF log FOR VALUES IN (3);
CREATE TABLE log_heads (topic text, part smallint, next bigint NOT NULL DEFAULT 0, PRIMARY KEY (topic, part));
INSERT INTO log_heads (topic, part) SELECT 'delivery-events', p FROM generate_series(0, 3) p;

-- How far each consumer has read: `next` is the offset to read next, moved in the transaction of what it caused.
CREATE TABLE offsets (
  consumer text NOT NULL,
  topic text NOT NULL,
  part int NOT NULL,
  next bigint NOT NULL,
  PRIMARY KEY (consumer, topic, part)
);

CREATE TABLE dead_letters (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL,
  part int NOT NULL,
  off bigint NOT NULL,
  reason text NOT NULL,
  val bytea NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  replayed_at timestamptz,
  UNIQUE (topic, part, off)
);

-- Keys for which a message's row has no more room, so that a row stays small and totals stay exact.
CREATE TABLE seen_overflow (
  message_id bigint NOT NULL,
  key bigint NOT NULL,
  tenant_id int NOT NULL,
  PRIMARY KEY (message_id, key)
);

-- uniq: distinct messages by the hour of the first time; total: distinct event ids where a kind may repeat, else as
-- uniq. Kind deferred counts attempts (event ids) in both.
CREATE TABLE counters (
  campaign_id int NOT NULL,
  tenant_id int NOT NULL,
  kind text NOT NULL,
  hour int NOT NULL,                            -- epoch seconds / 3600
  uniq bigint NOT NULL,
  total bigint NOT NULL,
  PRIMARY KEY (campaign_id, kind, hour)
) WITH (fillfactor = 50);

CREATE TABLE link_counters (
  campaign_id int NOT NULL,
  link smallint NOT NULL,
  tenant_id int NOT NULL,
  uniq bigint NOT NULL,
  total bigint NOT NULL,
  PRIMARY KEY (campaign_id, link)
) WITH (fillfactor = 50);

CREATE TABLE domain_counters (
  tenant_id int NOT NULL,
  domain text NOT NULL,
  kind text NOT NULL,
  uniq bigint NOT NULL,
  total bigint NOT NULL,
  PRIMARY KEY (tenant_id, domain, kind)
) WITH (fillfactor = 50);

-- What segments ask about a contact's reactions; epoch seconds, the greatest wins.
CREATE TABLE engagement (
  contact_id bigint PRIMARY KEY,
  tenant_id int NOT NULL,
  last_accepted int, last_delivered int, last_opened int, last_clicked int, last_bounced int
) WITH (fillfactor = 70);

-- ---------------------------------------------------------------- read
-- What the statistics API reads instead of adding up a history: sums, kept by triggers in the statement (counters) or at
-- the commit (the others: they hold no lock while a long load runs) of whoever writes. A difference of nothing writes nothing.

-- Three grains in one table. campaign_id 0: the whole tenant; hour -1: all hours. There is no row per campaign and hour:
-- those are the counters themselves.
CREATE TABLE rollups (
  tenant_id int NOT NULL,
  campaign_id int NOT NULL,
  hour int NOT NULL,
  kind text NOT NULL,
  uniq bigint NOT NULL,
  total bigint NOT NULL,
  PRIMARY KEY (tenant_id, campaign_id, hour, kind)
) WITH (fillfactor = 50);

CREATE TABLE source_totals (
  source_id int PRIMARY KEY REFERENCES sources,
  tenant_id int NOT NULL,
  batches bigint NOT NULL,
  rows_read bigint NOT NULL,
  rows_accepted bigint NOT NULL,
  rows_rejected bigint NOT NULL,
  duplicates_within bigint NOT NULL,
  duplicates_across bigint NOT NULL,
  contacts_new bigint NOT NULL,
  contacts_changed bigint NOT NULL,
  loaded_at timestamptz                         -- of the batch loaded last
);
CREATE INDEX source_totals_tenant ON source_totals (tenant_id);

CREATE TABLE campaign_totals (
  tenant_id int NOT NULL,
  state campaign_state NOT NULL,
  n bigint NOT NULL,
  PRIMARY KEY (tenant_id, state)
);

CREATE INDEX campaigns_newest ON campaigns (tenant_id, id);
CREATE INDEX batches_newest ON batches (tenant_id, id);

CREATE FUNCTION roll_up_counters() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  difference text := CASE TG_OP
    WHEN 'INSERT' THEN 'SELECT tenant_id, campaign_id, hour, kind, uniq, total FROM after'
    WHEN 'DELETE' THEN 'SELECT tenant_id, campaign_id, hour, kind, -uniq, -total FROM before'
    ELSE 'SELECT tenant_id, campaign_id, hour, kind, uniq, total FROM after
          UNION ALL SELECT tenant_id, campaign_id, hour, kind, -uniq, -total FROM before' END;
BEGIN
  -- in the order of the key, as the counters themselves are written: two folds never wait for each other in a circle
  EXECUTE 'INSERT INTO rollups AS r (tenant_id, campaign_id, hour, kind, uniq, total)
    SELECT tenant_id, coalesce(campaign_id, 0), coalesce(hour, -1), kind, sum(uniq), sum(total)
      FROM (' || difference || ') AS d (tenant_id, campaign_id, hour, kind, uniq, total)
     GROUP BY GROUPING SETS ((tenant_id, campaign_id, kind), (tenant_id, hour, kind), (tenant_id, kind))
    HAVING sum(uniq) <> 0 OR sum(total) <> 0
     ORDER BY 1, 2, 3, 4
    ON CONFLICT (tenant_id, campaign_id, hour, kind)
    DO UPDATE SET uniq = r.uniq + excluded.uniq, total = r.total + excluded.total';
  RETURN NULL;
END $$;
CREATE TRIGGER rolled_up_insert AFTER INSERT ON counters
  REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION roll_up_counters();
CREATE TRIGGER rolled_up_update AFTER UPDATE ON counters
  REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION roll_up_counters();
CREATE TRIGGER rolled_up_delete AFTER DELETE ON counters
  REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION roll_up_counters();

CREATE FUNCTION add_to_source(b batches, sign int) RETURNS void LANGUAGE sql SET search_path = public, pg_temp AS $$
  INSERT INTO source_totals AS t (source_id, tenant_id, batches, rows_read, rows_accepted, rows_rejected,
    duplicates_within, duplicates_across, contacts_new, contacts_changed, loaded_at)
  VALUES (b.source_id, b.tenant_id, sign, sign * b.rows_read, sign * b.rows_accepted, sign * b.rows_rejected,
    sign * b.duplicates_within, sign * b.duplicates_across, sign * b.contacts_new, sign * b.contacts_changed, b.loaded_at)
  ON CONFLICT (source_id) DO UPDATE SET batches = t.batches + excluded.batches,
    rows_read = t.rows_read + excluded.rows_read, rows_accepted = t.rows_accepted + excluded.rows_accepted,
    rows_rejected = t.rows_rejected + excluded.rows_rejected,
    duplicates_within = t.duplicates_within + excluded.duplicates_within,
    duplicates_across = t.duplicates_across + excluded.duplicates_across,
    contacts_new = t.contacts_new + excluded.contacts_new,
    contacts_changed = t.contacts_changed + excluded.contacts_changed,
    loaded_at = greatest(t.loaded_at, excluded.loaded_at)
$$;
CREATE FUNCTION roll_up_batches() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN PERFORM add_to_source(old, -1); END IF;
  IF TG_OP <> 'DELETE' THEN PERFORM add_to_source(new, 1); END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER rolled_up AFTER INSERT OR UPDATE OR DELETE ON batches
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION roll_up_batches();

CREATE FUNCTION roll_up_campaigns() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND old.state = new.state THEN RETURN NULL; END IF;
  INSERT INTO campaign_totals AS t (tenant_id, state, n)
  SELECT * FROM (SELECT new.tenant_id, new.state, 1 WHERE TG_OP <> 'DELETE'
                 UNION ALL SELECT old.tenant_id, old.state, -1 WHERE TG_OP <> 'INSERT') d (tenant_id, state, n) ORDER BY 1, 2
  ON CONFLICT (tenant_id, state) DO UPDATE SET n = t.n + excluded.n;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER rolled_up AFTER INSERT OR UPDATE OF state OR DELETE ON campaigns
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION roll_up_campaigns();
-- they run with their owner's rights, which nobody may borrow
REVOKE EXECUTE ON FUNCTION roll_up_counters(), roll_up_batches(), roll_up_campaigns(), add_to_source(batches, int) FROM PUBLIC;

-- ---------------------------------------------------------------- consent as it stands
-- Of the contacts first..last of a tenant that have any: the lawful basis in force ('consent', 'legitimate_interests' …),
-- or 'withdrawn'. A person's own word counts by its time. A list vouches only for who did not withdraw.
CREATE FUNCTION consents_of(tenant int, first bigint, last bigint) RETURNS TABLE (contact_id bigint, consent text)
LANGUAGE sql STABLE AS $$
  SELECT coalesce(own.id, list.id), coalesce(own.consent, list.basis)
    FROM (SELECT DISTINCT ON (c.id) c.id, CASE WHEN w.status = 'withdrawn' THEN 'withdrawn' ELSE w.basis END AS consent
            FROM (SELECT address_key, status, basis, at, recorded_at FROM consents
                   WHERE tenant_id = tenant AND address_key IS NOT NULL AND NOT of_list
                     AND (status = 'withdrawn' OR at <= statement_timestamp())
                  UNION ALL SELECT address_key, 'withdrawn', NULL, created_at, created_at FROM suppressions
                   WHERE (tenant_id = tenant OR tenant_id IS NULL) AND scope_campaign_id IS NULL
                     AND reason IN ('unsubscribed', 'complained')
                  UNION ALL SELECT address_key, 'withdrawn', NULL, suppressed_at, suppressed_at FROM suppression_removals
                   WHERE (tenant_id = tenant OR tenant_id IS NULL) AND scope_campaign_id IS NULL
                     AND reason IN ('unsubscribed', 'complained')) w
            JOIN contacts c ON c.tenant_id = tenant AND c.match_key = w.address_key AND c.id BETWEEN first AND last
           ORDER BY c.id, w.at DESC, w.status DESC, w.recorded_at DESC) own
    FULL JOIN (SELECT DISTINCT ON (l.id) l.id, l.basis
            FROM (SELECT s.contact_id AS id, b.basis, b.at, b.id AS word
                    FROM consents b JOIN contact_sources s ON s.source_id = b.source_id AND b.batch_id IN (s.first_batch_id, s.last_batch_id)
                   WHERE b.tenant_id = tenant AND b.address_key IS NULL AND s.tenant_id = tenant
                     AND s.block BETWEEN first >> 6 AND last >> 6 AND s.contact_id BETWEEN first AND last
                  UNION ALL SELECT c.id, k.basis, k.at, k.id FROM consents k
                    JOIN contacts c ON c.tenant_id = tenant AND c.match_key = k.address_key AND c.id BETWEEN first AND last
                   WHERE k.tenant_id = tenant AND k.address_key IS NOT NULL AND k.of_list) l
           ORDER BY l.id, l.at DESC, l.word DESC) list ON list.id = own.id
$$;

-- ---------------------------------------------------------------- who may what
-- The roles exist before this runs (embedded: the launcher; production: docs/production.md).

GRANT USAGE ON SCHEMA public TO mailmill_sender, mailmill_listener, mailmill_ingress, mailmill_stats, mailmill_backup;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO mailmill_backup;
GRANT SELECT ON alembic_version TO mailmill_sender, mailmill_listener, mailmill_ingress, mailmill_stats;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO mailmill_backup;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO mailmill_backup;     -- of later migrations
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON SEQUENCES TO mailmill_backup;

GRANT SELECT ON tenants, transports, identities, templates, campaigns, links, signing_keys, suppressions, messages,
  message_fields, attempts, workers, leases, budgets, log_heads, change_number, exclusions TO mailmill_sender;
GRANT INSERT, UPDATE, DELETE ON workers, leases, budgets TO mailmill_sender;
GRANT UPDATE ON messages, log_heads, change_number, transports, campaigns TO mailmill_sender;
GRANT INSERT ON attempts, log, campaign_transitions TO mailmill_sender;

GRANT SELECT ON tenants, campaigns, links, messages, contacts, suppressions, log, log_heads, offsets, manifest,
  dead_letters, counters, link_counters, domain_counters, engagement, change_number, transports, seen_overflow
  TO mailmill_listener;
GRANT UPDATE ON messages, offsets, counters, link_counters, domain_counters, engagement, suppressions, change_number,
  log_heads, dead_letters TO mailmill_listener;
GRANT INSERT ON log, offsets, manifest, dead_letters, counters, link_counters, domain_counters, engagement,
  suppressions, seen_overflow TO mailmill_listener;
GRANT DELETE ON log, manifest TO mailmill_listener;

GRANT SELECT ON tenants, campaigns, links, messages, signing_keys, suppressions, transports, log_heads, change_number TO mailmill_ingress;
GRANT INSERT ON log, suppressions TO mailmill_ingress;
GRANT UPDATE ON log_heads, change_number TO mailmill_ingress;

GRANT SELECT ON tenants, sources, segments, campaigns, campaign_transitions, exclusions, links, batches, contacts,
  sightings, lone_sightings, contact_sources, messages, counters, link_counters, domain_counters, engagement, suppressions, manifest,
  rollups, source_totals, campaign_totals TO mailmill_stats;

-- A key is looked up before its tenant is known, so by its prefix and no other way: nobody lists everybody's hashes.
CREATE FUNCTION api_key(wanted text) RETURNS TABLE (id int, tenant_id int, hash bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT k.id, k.tenant_id, k.hash FROM api_keys k WHERE k.prefix = wanted AND k.revoked_at IS NULL
$$;
REVOKE EXECUTE ON FUNCTION api_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api_key(text) TO mailmill_stats;

-- Tenants never see each other: forced on every table with tenant_id. Owner, sender, listener and backup work across
-- tenants by a policy of their own; ingress and stats see the tenant their transaction names, and none without it.
DO $$
DECLARE t text;
BEGIN
  FOR t IN SELECT c.table_name FROM information_schema.columns c JOIN information_schema.tables b USING (table_schema, table_name)
            WHERE c.table_schema = 'public' AND c.column_name = 'tenant_id' AND b.table_type = 'BASE TABLE'
  LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY across ON %I TO mailmill_owner, mailmill_sender, mailmill_listener, mailmill_backup USING (true) WITH CHECK (true)', t);
    EXECUTE format('CREATE POLICY one_tenant ON %I TO mailmill_ingress, mailmill_stats USING (tenant_id = nullif(current_setting(''mailmill.tenant_id'', true), '''')::int)', t);
  END LOOP;
  -- a tenant's own row; the slug is public in URLs, so looking it up needs no tenant
  ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
  ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
  CREATE POLICY across ON tenants TO mailmill_owner, mailmill_sender, mailmill_listener, mailmill_backup USING (true) WITH CHECK (true);
  CREATE POLICY one_tenant ON tenants TO mailmill_ingress, mailmill_stats
    USING (id = nullif(current_setting('mailmill.tenant_id', true), '')::int OR slug = current_setting('mailmill.tenant_slug', true));
END $$;

-- What a planning fills by COPY, which is refused to whom row-level security is forced on. That concerns the owner alone,
-- who by its policy sees every row either way; every other role is bound as before.
ALTER TABLE messages NO FORCE ROW LEVEL SECURITY;
ALTER TABLE message_fields NO FORCE ROW LEVEL SECURITY;

-- Keys belong to no tenant but each to a purpose: who signs and verifies mail never sees what suppressions are named by.
ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY every_purpose ON signing_keys TO mailmill_owner, mailmill_backup USING (true) WITH CHECK (true);
CREATE POLICY of_mail ON signing_keys FOR SELECT TO mailmill_sender, mailmill_ingress
  USING (purpose IN ('tracking', 'unsubscribe', 'return_path'));
