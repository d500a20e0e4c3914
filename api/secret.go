package api

import "time"

// Secret is a secret as the API shows it: everything but its value.
type Secret struct {
	Name string `json:"name" doc:"The name; secret://name refers to it."`
	// Version counts the values that the name has had.
	Version   int64     `json:"version" doc:"How many values the name has had."`
	CreatedBy string    `json:"createdBy,omitempty" doc:"The name of the API token that made it."`
	UpdatedBy string    `json:"updatedBy,omitempty" doc:"The name of the API token that gave it its value."`
	CreatedAt time.Time `json:"createdAt" doc:"When it was made."`
	UpdatedAt time.Time `json:"updatedAt" doc:"When it got its value."`
	// UsedBy is filled in where one secret is shown.
	UsedBy []string `json:"usedBy,omitempty" doc:"The names of the targets that refer to it; where one secret is shown."`
}

// SecretRequest is PUT /api/v1/secrets/{name}.
type SecretRequest struct {
	Value string `json:"value" minLength:"1" maxLength:"65536" doc:"The value. It is kept encrypted, and no operation shows it."`
}

// SecretList is the answer of GET /api/v1/secrets.
type SecretList struct {
	Items []Secret `json:"items" nullable:"false" doc:"The secrets of this page."`
	Next  string   `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}
