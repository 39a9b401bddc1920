package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/api"
)

// maxDepth bounds how deep a body may nest.
const maxDepth = 100

var unmarshalerType = reflect.TypeFor[json.Unmarshaler]()

// check reads a JSON body into v, a pointer, and names the first field that has
// a value it cannot have. It returns the fields that v's type does not know. A
// null counts as a missing field, as it does for Fly.
func check(body []byte, v any) (unknown []string, err error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, malformed(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, api.Errorf(api.CodeBadRequest, "the body has something after the end of its JSON")
	}
	k := &checker{}
	if err := k.value("", reflect.TypeOf(v).Elem(), doc, "", 0); err != nil {
		return k.unknown, err
	}
	if err := repeats(json.NewDecoder(bytes.NewReader(body)), ""); err != nil {
		return k.unknown, err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return k.unknown, leftover(err)
	}
	return k.unknown, nil
}

func malformed(err error) error {
	var s *json.SyntaxError
	if errors.As(err, &s) {
		return api.Errorf(api.CodeBadRequest, "the body is not JSON: %v at byte %d", err, s.Offset)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return api.Errorf(api.CodeBadRequest, "the body is not JSON: it ends too early")
	}
	return api.Errorf(api.CodeBadRequest, "the body is not JSON: %v", err)
}

// leftover is for what the checker let pass and the decoder did not.
func leftover(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return invalid(t.Field, "%s cannot be %s", t.Field, t.Value)
	}
	return api.Errorf(api.CodeInvalid, "the body cannot be used: %v", err)
}

// checker walks a decoded document beside the type that it is to fill.
type checker struct{ unknown []string }

// value checks one value; enum is the tag of the field that holds it.
func (k *checker) value(path string, t reflect.Type, v any, enum string, depth int) error {
	if depth > maxDepth {
		return api.Errorf(api.CodeBadRequest, "the body nests deeper than %d levels", maxDepth).WithField(path)
	}
	if v == nil {
		return k.null(path)
	}
	if t.Kind() == reflect.Pointer {
		return k.value(path, t.Elem(), v, enum, depth)
	}
	if reflect.PointerTo(t).Implements(unmarshalerType) {
		return custom(path, t, v)
	}
	switch t.Kind() {
	case reflect.Struct:
		return k.object(path, t, v, depth)
	case reflect.Map:
		return k.each(path, t.Elem(), v, depth)
	case reflect.Slice:
		return k.list(path, t, v, depth)
	case reflect.String:
		return text(path, v, enum)
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			return wrong(path, "true or false", v)
		}
	case reflect.Interface:
	default:
		return number(path, t, v)
	}
	return nil
}

func (k *checker) null(path string) error {
	if path == "" {
		return api.Errorf(api.CodeBadRequest, "the body is null; it must be an object")
	}
	return nil
}

// object checks a struct's fields in their order.
func (k *checker) object(path string, t reflect.Type, v any, depth int) error {
	m, ok := v.(map[string]any)
	if !ok {
		return wrong(path, "an object", v)
	}
	known := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		known[name] = true
		if m[name] == nil {
			continue
		}
		if err := k.value(join(path, name), f.Type, m[name], f.Tag.Get("enum"), depth+1); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if known[name] {
			continue
		}
		if right := spelling(name, known); right != "" {
			return invalid(join(path, printable(name)), "there is no field %s; it is written %s", join(path, printable(name)), join(path, right))
		}
		k.unknown = append(k.unknown, printable(join(path, name)))
	}
	return nil
}

// spelling is the known name that the decoder would take a name for, which goes by
// letters of either case; "" if there is none.
func spelling(name string, known map[string]bool) string {
	for right := range known {
		if strings.EqualFold(right, name) {
			return right
		}
	}
	return ""
}

// repeats refuses an object that has a field twice: the checker has seen the last one
// only, and the decoder makes one of both.
func repeats(dec *json.Decoder, path string) error {
	at, err := dec.Token()
	switch {
	case err != nil:
		return malformed(err)
	case at == json.Delim('{'):
		err = fieldsRepeat(dec, path)
	case at == json.Delim('['):
		for i := 0; err == nil && dec.More(); i++ {
			err = repeats(dec, path+"["+strconv.Itoa(i)+"]")
		}
	default:
		return nil
	}
	if err == nil {
		_, err = dec.Token() // the bracket at its end
	}
	return err
}

func fieldsRepeat(dec *json.Decoder, path string) error {
	seen := map[any]bool{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return malformed(err)
		}
		field := join(path, printable(fmt.Sprint(name)))
		if seen[name] {
			return invalid(field, "%s is there twice", field)
		}
		seen[name] = true
		if err := repeats(dec, field); err != nil {
			return err
		}
	}
	return nil
}

func (k *checker) each(path string, elem reflect.Type, v any, depth int) error {
	m, ok := v.(map[string]any)
	if !ok {
		return wrong(path, "an object", v)
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := k.value(join(path, printable(name)), elem, m[name], "", depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (k *checker) list(path string, t reflect.Type, v any, depth int) error {
	if t.Elem().Kind() == reflect.Uint8 {
		return text(path, v, "")
	}
	list, ok := v.([]any)
	if !ok {
		return wrong(path, "a list", v)
	}
	for i, e := range list {
		if err := k.value(path+"["+strconv.Itoa(i)+"]", t.Elem(), e, "", depth+1); err != nil {
			return err
		}
	}
	return nil
}

func text(path string, v any, enum string) error {
	s, ok := v.(string)
	if !ok {
		return wrong(path, "text", v)
	}
	if enum == "" || slices.Contains(strings.Split(enum, ","), s) {
		return nil
	}
	return invalid(path, "%s is %q; it can be %s", path, api.Clip(s), strings.Join(strings.Split(strings.TrimPrefix(enum, ","), ","), ", "))
}

func number(path string, t reflect.Type, v any) error {
	n, ok := v.(json.Number)
	if !ok {
		return wrong(path, "a number", v)
	}
	var err error
	switch t.Kind() {
	case reflect.Float32, reflect.Float64:
		var f float64
		if f, err = n.Float64(); err == nil && math.IsInf(f, 0) {
			err = strconv.ErrRange
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		_, err = strconv.ParseUint(n.String(), 10, t.Bits())
	default:
		_, err = strconv.ParseInt(n.String(), 10, t.Bits())
	}
	if err != nil {
		return invalid(path, "%s is %s; it must be a whole number within its range", path, api.Clip(n.String()))
	}
	return nil
}

// custom asks a type that reads itself.
func custom(path string, t reflect.Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return invalid(path, "%s: %v", path, err)
	}
	if err := reflect.New(t).Interface().(json.Unmarshaler).UnmarshalJSON(b); err != nil {
		return invalid(path, "%s: %v", path, err)
	}
	return nil
}

func wrong(path, want string, v any) error {
	var got string
	switch v := v.(type) {
	case string:
		got = strconv.Quote(api.Clip(v))
	case []any:
		got = "a list"
	case map[string]any:
		got = "an object"
	default:
		got = fmt.Sprint(v)
	}
	if path == "" {
		return api.Errorf(api.CodeBadRequest, "the body is %s; it must be %s", got, want)
	}
	return invalid(path, "%s is %s; it must be %s", path, got, want)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// printable makes a name from outside safe for a header and a terminal.
func printable(s string) string {
	q := strconv.QuoteToASCII(api.Clip(s))
	return q[1 : len(q)-1]
}
