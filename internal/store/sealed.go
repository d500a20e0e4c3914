package store

import (
	"context"

	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store/internal/db"
	"stella-ops.org/stella/internal/task"
)

var (
	_ seal.KeyStore = (*Store)(nil)
	_ seal.Texts    = (*Store)(nil)
)

// SealedTables implements seal.Texts.
func (*Store) SealedTables() []string {
	return []string{"keys", "secrets", "tasks", "deployments", "rollouts"}
}

// OutdatedTexts implements seal.Texts.
func (s *Store) OutdatedTexts(ctx context.Context, table string, head []byte, after []string, limit int) (list []seal.Text, err error) {
	q, size, first := s.read(), int64(page(limit)), ""
	if len(after) > 0 {
		first = after[0]
	}
	switch table {
	case "keys":
		rows, e := q.OutdatedKeys(ctx, db.OutdatedKeysParams{After: first, Keyring: seal.KeyringName, Head: head, Page: size})
		for _, r := range rows {
			list = append(list, seal.Text{Key: []string{r.Name}, Name: r.Name, Sealed: r.Sealed})
		}
		err = e
	case "secrets":
		second := ""
		if len(after) > 1 {
			second = after[1]
		}
		rows, e := q.OutdatedSecrets(ctx, db.OutdatedSecretsParams{AfterTenant: first, AfterName: second, Head: head, Page: size})
		for _, r := range rows {
			list = append(list, seal.Text{Key: []string{r.TenantID, r.Name}, Name: secret.SealName(r.TenantID, r.Name), Sealed: r.Sealed})
		}
		err = e
	case "tasks":
		rows, e := q.OutdatedTasks(ctx, db.OutdatedTasksParams{After: first, Head: head, Page: size})
		for _, r := range rows {
			list = append(list, seal.Text{Key: []string{r.ID}, Name: task.SealName(r.ID), Sealed: r.Sealed})
		}
		err = e
	case "deployments":
		rows, e := q.OutdatedDeployments(ctx, db.OutdatedDeploymentsParams{After: first, Head: head, Page: size})
		for _, r := range rows {
			list = append(list, seal.Text{Key: []string{r.TaskID}, Name: task.SealName(r.TaskID), Sealed: r.Sealed})
		}
		err = e
	case "rollouts":
		rows, e := q.OutdatedRollouts(ctx, db.OutdatedRolloutsParams{After: first, Head: head, Page: size})
		for _, r := range rows {
			list = append(list, seal.Text{Key: []string{r.ID}, Name: rollout.SealName(r.ID), Sealed: r.Sealed})
		}
		err = e
	}
	if err != nil {
		return nil, s.explain(ctx, "read sealed "+table, err)
	}
	return list, nil
}

// ReplaceTexts implements seal.Texts.
func (s *Store) ReplaceTexts(ctx context.Context, table string, list []seal.Replacement) (replaced int, err error) {
	err = s.write(ctx, "seal "+table+" anew", func(q *db.Queries) error {
		replaced = 0
		for _, r := range list {
			n, err := replaceText(ctx, q, table, r)
			if err != nil {
				return err
			}
			replaced += int(n)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return replaced, nil
}

func replaceText(ctx context.Context, q *db.Queries, table string, r seal.Replacement) (int64, error) {
	switch table {
	case "keys":
		return q.SwapKey(ctx, db.SwapKeyParams{Name: r.Key[0], Anew: r.Anew, Old: r.Sealed})
	case "secrets":
		return q.ReplaceSecretText(ctx, db.ReplaceSecretTextParams{TenantID: r.Key[0], Name: r.Key[1], Anew: r.Anew, Old: r.Sealed})
	case "tasks":
		return q.ReplaceTaskText(ctx, db.ReplaceTaskTextParams{ID: r.Key[0], Anew: r.Anew, Old: r.Sealed})
	case "deployments":
		return q.ReplaceDeploymentText(ctx, db.ReplaceDeploymentTextParams{TaskID: r.Key[0], Anew: r.Anew, Old: r.Sealed})
	case "rollouts":
		return q.ReplaceRolloutText(ctx, db.ReplaceRolloutTextParams{ID: r.Key[0], Anew: r.Anew, Old: r.Sealed})
	}
	return 0, nil
}
