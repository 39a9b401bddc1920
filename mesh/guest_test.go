package mesh

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// guest is what the test program does inside a sandbox: "serve NAME" answers
// HTTP with the name, "get URL" prints what a URL says and "size URL" how long that is, "resolve NAME SERVER"
// prints addresses.
func guest(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	switch args[0] {
	case "serve":
		return http.ListenAndServe(fmt.Sprint(":", testPort), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				io.Copy(io.Discard, r.Body)
			}
			fmt.Fprint(w, args[1])
		}))
	case "get", "size":
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[1], nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if args[0] == "get" {
			_, err = io.Copy(os.Stdout, resp.Body)
			return err
		}
		size, err := io.Copy(io.Discard, resp.Body)
		fmt.Print(size)
		return err
	case "resolve":
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, args[2])
		}}
		addrs, err := r.LookupNetIP(ctx, "ip6", args[1])
		fmt.Println(addrs)
		return err
	}
	return fmt.Errorf("what is %q?", args)
}
