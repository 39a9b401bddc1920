package api

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Duration is a span of time that travels as Go's text ("10s"); a bare number
// is read as nanoseconds, as Fly's own clients send it.
type Duration time.Duration

// D returns d as a pointer, for the optional fields of a configuration.
func D(d time.Duration) *Duration { v := Duration(d); return &v }

// Or returns the duration, or def where none was given.
func (d *Duration) Or(def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return time.Duration(*d)
}

// String returns Go's text of the duration.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON writes the duration as text.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads text such as "1m30s", or nanoseconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		return nil
	case float64:
		*d = Duration(v)
		return nil
	case string:
		p, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("duration %q is not a number with a unit, such as 10s or 1m30s", v)
		}
		*d = Duration(p)
		return nil
	}
	return fmt.Errorf("duration must be text such as \"10s\" or a number of nanoseconds")
}

// Autostop says what becomes of an idle machine: AutostopOff, AutostopStop or
// AutostopSuspend. On the wire it is false, true, "off", "stop" or "suspend".
type Autostop string

// What becomes of an idle machine.
const (
	AutostopOff     Autostop = "off"
	AutostopStop    Autostop = "stop"
	AutostopSuspend Autostop = "suspend"
)

// UnmarshalJSON reads the boolean and the text form.
func (a *Autostop) UnmarshalJSON(b []byte) error {
	switch s := string(b); s {
	case "false", `"off"`:
		*a = AutostopOff
	case "true", `"stop"`:
		*a = AutostopStop
	case `"suspend"`:
		*a = AutostopSuspend
	case "null":
	default:
		return fmt.Errorf("autostop is %s; it can be off, stop or suspend", s)
	}
	return nil
}

// SignalName is a signal such as "SIGHUP". On the wire it may be a number too.
type SignalName string

// UnmarshalJSON reads the text and the number.
func (s *SignalName) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
	case string:
		*s = SignalName(v)
	case float64:
		if v != float64(int(v)) {
			return fmt.Errorf("signal %v is no whole number", v)
		}
		*s = SignalName(strconv.Itoa(int(v)))
	default:
		return fmt.Errorf("signal must be text such as \"SIGHUP\" or a number")
	}
	return nil
}
