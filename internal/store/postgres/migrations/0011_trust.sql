-- +goose Up

-- Under which trust a certificate was issued: which roots its agent was given,
-- and who issued it. An agent has that of the certificate that it uses.
ALTER TABLE certificates ADD COLUMN trust TEXT NOT NULL DEFAULT '';
ALTER TABLE agents ADD COLUMN trust TEXT NOT NULL DEFAULT '';
