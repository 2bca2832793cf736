-- name: variants
-- Counted from the ledger, so it costs the size of the campaign: for a person who asks, not for the API.
SELECT coalesce(v ->> 'template', ''), coalesce(v ->> 'label', 'variant ' || n.variant), n.planned, n.accepted, n.failed,
       n.delivered, n.bounced_soft, n.bounced_hard, n.complained, n.unsubscribed, n.opened, n.clicked
  FROM campaigns c
 CROSS JOIN LATERAL (
   SELECT m.variant, count(*) AS planned, count(m.at_accepted) AS accepted, count(m.at_failed) AS failed,
          count(m.at_delivered) AS delivered, count(m.at_bounced_soft) AS bounced_soft,
          count(m.at_bounced_hard) AS bounced_hard, count(m.at_complained) AS complained,
          count(m.at_unsubscribed) AS unsubscribed,
          -- shares of what was accepted: who opened a message that stayed in doubt is in neither number
          count(m.at_opened) FILTER (WHERE m.at_accepted IS NOT NULL) AS opened,
          count(m.at_clicked) FILTER (WHERE m.at_accepted IS NOT NULL) AS clicked
     FROM messages m
    WHERE m.campaign_id = c.id AND m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned
    GROUP BY m.variant) n
 CROSS JOIN LATERAL (SELECT c.content -> 'variants' -> n.variant::int AS v) x
 WHERE c.id = %(campaign_id)s AND c.tenant_id = %(tenant_id)s ORDER BY n.variant;
