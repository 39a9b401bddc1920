package api

import "time"

// The kinds of tokens. docs/tokens.md says what each may.
const (
	TokenOrg         = "org"          // everything in one org
	TokenDeploy      = "deploy"       // everything in one app but to destroy it
	TokenReadOnly    = "readonly"     // see an org, or one app
	TokenSSH         = "ssh"          // certificates and sessions, in an org or one app
	TokenMachineExec = "machine-exec" // run commands in an app's machines, or some of them
	TokenMachine     = "machine"      // what a machine itself has
)

// TokenInfo is a token as it is kept: without its text, which is shown once.
type TokenInfo struct {
	ID        string     `json:"id"`
	Kind      string     `json:"kind" enum:"org,deploy,readonly,ssh,machine-exec,machine"`
	Name      string     `json:"name,omitempty"`
	Org       string     `json:"org"`
	App       string     `json:"app,omitempty"`
	Limits    []string   `json:"limits" doc:"What it is limited to, one line each; see docs/tokens.md"`
	CreatedBy string     `json:"created_by,omitempty"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	LastUsed  *time.Time `json:"last_used_at,omitempty" doc:"Roughly: written down at most once an hour"`
}

// CreateTokenRequest makes a token (POST /v1/orgs/{org_slug}/tokens).
type CreateTokenRequest struct {
	Kind     string     `json:"kind" doc:"org, deploy, readonly, ssh or machine-exec"`
	Name     string     `json:"name,omitempty" doc:"For lists"`
	App      string     `json:"app,omitempty" doc:"deploy and machine-exec need one; readonly and ssh may have one"`
	Machines []string   `json:"machines,omitempty" doc:"With machine-exec: only these"`
	Commands [][]string `json:"commands,omitempty" doc:"With machine-exec: only these; as last argument ... stands for any more"`
	Expiry   string     `json:"expiry,omitempty" doc:"How long it is valid, such as 24h; default the maker's own end, else 20 years"`
}

// CreateTokenResponse is a new token: its text is shown this once.
type CreateTokenResponse struct {
	Token string `json:"token"`
	TokenInfo
}

// DeployTokenRequest makes a deploy token, as Fly's clients do (POST
// /v1/apps/{app_name}/deploy_token).
type DeployTokenRequest struct {
	Expiry string `json:"expiry,omitempty" doc:"How long it is valid, such as 24h"`
}

// DeployTokenResponse is the token's text.
type DeployTokenResponse struct {
	Token string `json:"token"`
}

// TokenList is an org's tokens, newest first.
type TokenList struct {
	Tokens []TokenInfo `json:"tokens"`
}

// CurrentToken is what the caller's token is, in Fly's words.
type CurrentToken struct {
	TokenID             string   `json:"token_id"`
	User                string   `json:"user,omitempty" doc:"Who calls, in words"`
	Kind                string   `json:"kind,omitempty"`
	Organization        string   `json:"organization,omitempty"`
	OrgSlug             string   `json:"org_slug,omitempty"`
	Apps                []string `json:"apps,omitempty" doc:"Missing: all of the org"`
	RestrictedToMachine string   `json:"restricted_to_machine,omitempty"`
	SourceMachineID     string   `json:"source_machine_id,omitempty"`
	Actions             []string `json:"actions,omitempty" doc:"Classes of calls; missing: all"`
	Limits              []string `json:"limits,omitempty"`
}

// CurrentTokens is the answer of GET /v1/tokens/current.
type CurrentTokens struct {
	Tokens []CurrentToken `json:"tokens"`
}

// AuthenticateRequest asks whether a token is valid (POST
// /v1/tokens/authenticate).
type AuthenticateRequest struct {
	Header string `json:"header" doc:"An Authorization header, or the token alone"`
}

// AuthorizeRequest asks whether a token may do something (POST
// /v1/tokens/authorize).
type AuthorizeRequest struct {
	Header string      `json:"header" doc:"An Authorization header, or the token alone"`
	Access TokenAccess `json:"access"`
}

// TokenAccess is something that a token may do or not.
type TokenAccess struct {
	Action  string   `json:"action" doc:"A class of calls: reads, changes, execs, shells, owns or operates"`
	OrgSlug string   `json:"org_slug,omitempty"`
	AppName string   `json:"app_name,omitempty"`
	Machine string   `json:"machine,omitempty"`
	Command []string `json:"command,omitempty"`
}

// AuthorizeResponse is the answer where it may; where not it is an error of the
// code forbidden.
type AuthorizeResponse struct {
	Access        TokenAccess  `json:"access"`
	VerifiedToken CurrentToken `json:"verified_token"`
}

// OIDCRequest asks for a signed word about the machine that calls (POST
// /v1/tokens/oidc).
type OIDCRequest struct {
	Aud              string `json:"aud,omitempty" doc:"For whom; default the issuer's address with the org"`
	AWSPrincipalTags bool   `json:"aws_principal_tags,omitempty" doc:"Taken for Fly's clients and refused if true"`
}

// Org is an owner of apps.
type Org struct {
	ID        string    `json:"id"`
	Slug      string    `json:"slug"`
	Name      string    `json:"name"`
	Apps      int       `json:"apps"`
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// OrgList is the answer of GET /v1/orgs.
type OrgList struct {
	Orgs []Org `json:"orgs"`
}

// CreateOrgRequest makes an org (POST /v1/orgs).
type CreateOrgRequest struct {
	Slug string `json:"slug" doc:"Small letters, digits and hyphens"`
}

// OIDCConfiguration says how words about machines are checked (GET
// /.well-known/openid-configuration).
type OIDCConfiguration struct {
	Issuer     string   `json:"issuer"`
	KeysURI    string   `json:"jwks_uri"`
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
	Responses  []string `json:"response_types_supported"`
	Subjects   []string `json:"subject_types_supported"`
	Scopes     []string `json:"scopes_supported"`
	Claims     []string `json:"claims_supported"`
}

// OIDCKeys are the keys that words about machines are checked by (GET
// /.well-known/jwks).
type OIDCKeys struct {
	Keys []OIDCKey `json:"keys"`
}

// OIDCKey is a key of an elliptic curve, as RFC 7517 writes it.
type OIDCKey struct {
	Kind      string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y"`
	ID        string `json:"kid"`
	Algorithm string `json:"alg"`
	Use       string `json:"use"`
}
