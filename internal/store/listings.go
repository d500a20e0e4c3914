package store

import (
	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// The lists, and where the database has their fields. A test sees that every
// field of a schema is here.

var agentListing = &listing{
	what: "list agents", schema: fleet.Schema,
	fields: map[string]source{
		"id":                  {column: "id"},
		"name":                {column: "name"},
		"status":              {column: "status", is: isStatus},
		"lifecycle":           {column: "lifecycle"},
		"liveness":            {column: "liveness", is: isLiveness},
		"environment":         {column: "environment"},
		"group":               {column: "group_name"},
		"version":             {column: "version"},
		"platform":            {column: "platform"},
		"capability":          {is: isCapable},
		"label":               {column: "labels"},
		"notAccepting":        {column: "not_accepting"},
		"lastHeartbeat":       {column: "last_heartbeat", mayBeNull: true},
		"certificateNotAfter": {column: "certificate_not_after", mayBeNull: true},
		"createdAt":           {column: "created_at"},
		"updatedAt":           {column: "updated_at"},
	},
}

// isStatus asks the column that has the word: the vocabularies share none, so
// there is one, and it has an index.
func isStatus(w *where, _, word string) string {
	switch word {
	case string(api.LifecycleActive), string(api.LifecycleInactive), string(api.LifecycleRevoked):
		return "lifecycle = " + w.arg(word)
	case string(api.Live), string(api.Stale), string(api.Dead):
		return isLiveness(w, "liveness", word)
	}
	return "status = " + w.arg(word)
}

// isLiveness says twice that an agent is not live, where that is so: an index
// holds only those, and the planner does not know what the argument will be.
func isLiveness(w *where, column, word string) string {
	cond := column + " = " + w.arg(word)
	if word != string(api.Live) {
		cond += " AND " + column + " <> 'live'"
	}
	return cond
}

// isCapable is fleet.Agent.Can: the agent says that it can, and it may.
func isCapable(w *where, _, capability string) string {
	var places []string
	for _, name := range fleet.Covering(capability) {
		places = append(places, w.arg(name))
	}
	may := "allowed_capabilities = " + w.arg(column.Strings{}) + " OR " + w.engine.HasAny("allowed_capabilities", places)
	return w.engine.HasAny("capabilities", places) + " AND (" + may + ")"
}

var targetListing = &listing{
	what: "list targets", schema: target.Schema,
	fields: map[string]source{
		"id":          {column: "id"},
		"name":        {column: "name"},
		"kind":        {column: "kind"},
		"environment": {column: "environment"},
		"agent":       {column: "agent_id"},
		"label":       {column: "labels"},
		"createdAt":   {column: "created_at"},
		"updatedAt":   {column: "updated_at"},
	},
}

var taskListing = &listing{
	what: "list tasks", schema: task.Schema,
	fields: map[string]source{
		"id":              {column: "id"},
		"type":            {column: "type"},
		"state":           {column: "state"},
		"target":          {column: "target_id"},
		"targetName":      {column: "target_label"},
		"agent":           {column: "agent_id"},
		"agentName":       {column: "agent_label"},
		"priority":        {column: "priority", is: isPriority},
		"attempt":         {column: "attempt"},
		"reason":          {column: "reason"},
		"cancelRequested": {column: "cancel_requested"},
		"createdBy":       {column: "created_by"},
		"createdAt":       {column: "created_at"},
		"startedAt":       {column: "started_at", mayBeNull: true},
		"finishedAt":      {column: "finished_at", mayBeNull: true},
		"expiresAt":       {column: "expires_at"},
	},
}

func isPriority(w *where, column, word string) string {
	return column + " = " + w.arg(task.PriorityNumber(api.TaskPriority(word)))
}

var tokenListing = &listing{
	what: "list registration tokens", schema: enroll.Schema,
	fields: map[string]source{
		"id":          {column: "id"},
		"state":       {is: tokenIs},
		"name":        {column: "name"},
		"agentId":     {column: "agent_id"},
		"environment": {column: "environment"},
		"group":       {column: "group_name"},
		"cluster":     {column: "cluster"},
		"platform":    {column: "platform"},
		"label":       {column: "labels"},
		"uses":        {column: "uses"},
		"maxUses":     {column: "max_uses"},
		"createdBy":   {column: "created_by"},
		"createdAt":   {column: "created_at"},
		"expiresAt":   {column: "expires_at"},
	},
}

// tokenIs is enroll.Token.State.
func tokenIs(w *where, _, state string) string {
	now := func() string { return w.arg(column.At(w.now)) }
	switch state {
	case "revoked":
		return "revoked_at IS NOT NULL"
	case "used":
		return "revoked_at IS NULL AND uses >= max_uses"
	case "expired":
		return "revoked_at IS NULL AND uses < max_uses AND expires_at <= " + now()
	case "usable":
		return "revoked_at IS NULL AND uses < max_uses AND expires_at > " + now()
	}
	return "FALSE"
}

var apiTokenListing = &listing{
	what: "list API tokens", schema: access.TokenSchema,
	fields: map[string]source{
		"id":         {column: "id"},
		"state":      {is: apiTokenIs},
		"name":       {column: "name"},
		"role":       {column: "role"},
		"createdBy":  {column: "created_by"},
		"createdAt":  {column: "created_at"},
		"expiresAt":  {column: "expires_at", mayBeNull: true},
		"lastUsedAt": {column: "last_used_at", mayBeNull: true},
	},
}

// apiTokenIs is access.APIToken.State.
func apiTokenIs(w *where, _, state string) string {
	now := func() string { return w.arg(column.At(w.now)) }
	switch state {
	case "revoked":
		return "revoked_at IS NOT NULL"
	case "expired":
		return "revoked_at IS NULL AND expires_at IS NOT NULL AND expires_at <= " + now()
	case "usable":
		return "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > " + now() + ")"
	}
	return "FALSE"
}

var auditListing = &listing{
	what: "read audit log", schema: access.AuditSchema,
	fields: map[string]source{
		"seq":     {column: "seq"},
		"at":      {column: "at"},
		"actor":   {column: "actor"},
		"action":  {column: "action"},
		"object":  {column: "object"},
		"remote":  {column: "remote"},
		"outcome": {column: "outcome"},
		"detail":  {column: "detail"},
	},
}

var rolloutListing = &listing{
	what: "list rollouts", schema: rollout.Schema,
	fields: map[string]source{
		"id":        {column: "id"},
		"state":     {column: "state"},
		"release":   {column: "release_id"},
		"reason":    {column: "reason"},
		"createdBy": {column: "created_by"},
		"createdAt": {column: "created_at"},
		"updatedAt": {column: "updated_at"},
	},
}

var secretListing = &listing{
	what: "list secrets", schema: secret.Schema,
	fields: map[string]source{
		"name":      {column: "name"},
		"version":   {column: "version"},
		"createdBy": {column: "created_by"},
		"updatedBy": {column: "updated_by"},
		"createdAt": {column: "created_at"},
		"updatedAt": {column: "updated_at"},
	},
}

var commandListing = &listing{
	what: "list commands", schema: command.Schema,
	fields: map[string]source{
		"id":           {column: "id"},
		"type":         {column: "type"},
		"scope":        {column: "scope"},
		"recipient":    {column: "recipient"},
		"recipients":   {column: "recipients"},
		"pending":      {column: "pending"},
		"delivered":    {column: "delivered"},
		"acknowledged": {column: "acknowledged"},
		"failed":       {column: "failed"},
		"expired":      {column: "expired"},
		"done":         {column: "(done_at IS NOT NULL)"},
		"createdBy":    {column: "created_by"},
		"createdAt":    {column: "created_at"},
		"expiresAt":    {column: "expires_at"},
	},
}

var deliveryListing = &listing{
	what: "list recipients of a command", schema: command.DeliverySchema,
	fields: map[string]source{
		"agent":       {column: "agent_id"},
		"agentName":   {column: "agent_name"},
		"state":       {column: "state"},
		"deliveredAt": {column: "delivered_at", mayBeNull: true},
		"endedAt":     {column: "ended_at", mayBeNull: true},
		"error":       {column: "error"},
	},
}

var receivedListing = &listing{
	what: "list commands of an agent", schema: command.ReceivedSchema, given: 2,
	fields: map[string]source{
		"id":        {column: "c.id"},
		"type":      {column: "c.type"},
		"state":     {column: "r.state"},
		"createdAt": {column: "c.created_at"},
		"expiresAt": {column: "c.expires_at"},
	},
}

var artifactListing = &listing{
	what: "list artifacts", schema: artifact.Schema,
	fields: map[string]source{
		"digest":      {column: "digest"},
		"name":        {column: "name"},
		"mediaType":   {column: "media_type"},
		"size":        {column: "size"},
		"received":    {column: "received"},
		"complete":    {column: "complete"},
		"createdBy":   {column: "created_by"},
		"createdAt":   {column: "created_at"},
		"completedAt": {column: "completed_at", mayBeNull: true},
		"lastUsedAt":  {column: "last_used_at"},
	},
}
