package flycompat

import (
	"encoding/json"
	"hash/fnv"
	"strconv"
	"time"

	graphql "github.com/graph-gophers/graphql-go"
)

// JSON is any value, as it came.
type JSON struct{ v any }

// ImplementsGraphQLType names the scalar.
func (JSON) ImplementsGraphQLType(name string) bool { return name == "JSON" }

// UnmarshalGraphQL takes any value.
func (j *JSON) UnmarshalGraphQL(v any) error {
	j.v = v
	return nil
}

// MarshalJSON gives the value.
func (j JSON) MarshalJSON() ([]byte, error) { return json.Marshal(j.v) }

// object is the value where it is an object, nil otherwise.
func (j *JSON) object() map[string]any {
	if j == nil {
		return nil
	}
	m, _ := j.v.(map[string]any)
	return m
}

// object is a definition as it goes out: nothing where there is none, for an empty
// one makes flyctl fail.
func object(m map[string]any) *JSON {
	if len(m) == 0 {
		return nil
	}
	return &JSON{m}
}

// BigInt is a number that travels as text.
type BigInt int64

// ImplementsGraphQLType names the scalar.
func (BigInt) ImplementsGraphQLType(name string) bool { return name == "BigInt" }

// UnmarshalGraphQL refuses: no argument is one.
func (*BigInt) UnmarshalGraphQL(any) error { return errNoInput }

// MarshalJSON gives the number as text.
func (b BigInt) MarshalJSON() ([]byte, error) { return json.Marshal(strconv.FormatInt(int64(b), 10)) }

// AddOnType is the name of a kind of add-on; there are none.
type AddOnType string

// ImplementsGraphQLType names the scalar.
func (AddOnType) ImplementsGraphQLType(name string) bool { return name == "AddOnType" }

// UnmarshalGraphQL takes any name.
func (a *AddOnType) UnmarshalGraphQL(v any) error {
	s, ok := v.(string)
	if !ok {
		return errNoName
	}
	*a = AddOnType(s)
	return nil
}

// number is the numeric identity of a name, the same for ever; it is never
// negative and never 0.
func number(name string) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return int32(h.Sum32()&0x7ffffffe) + 1
}

func clock(t time.Time) graphql.Time { return graphql.Time{Time: t} }

// text is nil where there is nothing to say.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// value is what a pointer points to, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// orEmpty makes an empty list travel as one.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
