package testkit_test

import "stella-ops.org/stella/client"

func clientTasks() client.TaskFilter { return client.TaskFilter{} }

func clientAudit() client.AuditFilter { return client.AuditFilter{} }

func clientTokens() client.TokenFilter { return client.TokenFilter{} }
