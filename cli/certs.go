package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func certsCmd(e *env) *cobra.Command {
	return parent("certs", "Certificates of the names that the app answers to", []string{"certificates"},
		certsListCmd(e), certsAddCmd(e), certsShowCmd(e, "show", "Show the certificates of a name, and where it leads", (*api.Client).GetCertificate),
		certsShowCmd(e, "check", "Look again, and get a certificate if there is none", (*api.Client).CheckCertificate), certsImportCmd(e), certsRemoveCmd(e))
}

func certsListCmd(e *env) *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the app's own names with their certificates", Args: noArgs, Example: "  perigee certs list --json",
		RunE: func(c *cobra.Command, _ []string) error {
			client, name, err := e.forApp()
			if err != nil {
				return err
			}
			list, err := client.ListCertificates(c.Context(), name, "", 0)
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(list.Certificates)
			}
			var rows [][]string
			for _, h := range list.Certificates {
				rows = append(rows, []string{h.Hostname, h.Status, certSources(h)})
			}
			return e.table([]string{"HOST", "STATUS", "FROM"}, rows)
		}}
}

// certSources says where a name's certificates come from.
func certSources(h api.CertificateSummary) string {
	var from []string
	if h.HasCustomCertificate {
		from = append(from, "brought")
	}
	if h.AcmeRequested {
		from = append(from, "automatic")
	}
	return strings.Join(from, ", ")
}

func certsAddCmd(e *env) *cobra.Command {
	return &cobra.Command{Use: "add NAME", Aliases: []string{"create"}, Short: "Let the app answer to a name, and get a certificate for it", Args: exactArgs("NAME"), Example: "  perigee certs add shop.example.com",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			cert, err := client.CreateCertificate(c.Context(), app, args[0])
			if err != nil {
				return e.explain(err)
			}
			return e.certificate(cert)
		}}
}

type certCall = func(c *api.Client, ctx context.Context, app, host string) (api.Certificate, error)

func certsShowCmd(e *env, verb, short string, ask certCall) *cobra.Command {
	return &cobra.Command{Use: verb + " NAME", Short: short, Args: exactArgs("NAME"), Example: "  perigee certs " + verb + " shop.example.com",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			cert, err := ask(client, c.Context(), app, args[0])
			if err != nil {
				return e.explain(err)
			}
			return e.certificate(cert)
		}}
}

func certsImportCmd(e *env) *cobra.Command {
	var chain, key string
	c := &cobra.Command{Use: "import NAME --fullchain FILE --private-key FILE", Short: "Bring a certificate and its key for a name", Args: exactArgs("NAME"),
		Long:    "Bring a certificate and its key for a name.\n\nThe certificate is used before one that the cloud gets by itself, until it runs out. The key is kept encrypted and is never shown.",
		Example: "  perigee certs import shop.example.com --fullchain fullchain.pem --private-key key.pem",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			req := api.ImportCertificateRequest{Hostname: args[0]}
			for path, to := range map[string]*string{chain: &req.Fullchain, key: &req.PrivateKey} {
				b, err := os.ReadFile(path)
				if err != nil {
					return fmt.Errorf("cannot read the certificate: %w", err)
				}
				*to = string(b)
			}
			cert, err := client.ImportCertificate(c.Context(), app, req)
			if err != nil {
				return e.explain(err)
			}
			return e.certificate(cert)
		}}
	c.Flags().StringVar(&chain, "fullchain", "", "file with the certificate, then those that vouch for it, in PEM")
	c.Flags().StringVar(&key, "private-key", "", "file with the key, in PEM")
	for _, f := range []string{"fullchain", "private-key"} {
		_ = c.MarkFlagRequired(f) // it is there
	}
	return c
}

func certsRemoveCmd(e *env) *cobra.Command {
	var custom, acme bool
	c := &cobra.Command{Use: "remove NAME", Aliases: []string{"rm", "delete"}, Short: "Stop answering to a name, and forget its certificates", Args: exactArgs("NAME"),
		Example: "  perigee certs remove shop.example.com\n  perigee certs remove shop.example.com --custom   # keep the name, forget what was brought",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			remove, words := client.DeleteCertificate, "%s no longer answers to %s"
			switch {
			case custom:
				remove, words = client.DeleteCustomCertificate, "%s has no certificate of its own for %s any more"
			case acme:
				remove, words = client.DeleteACMECertificate, "%s gets no more certificates for %s"
			}
			if err := remove(c.Context(), app, args[0]); err != nil {
				return e.explain(err)
			}
			return e.did(words, app, args[0])
		}}
	c.Flags().BoolVar(&custom, "custom", false, "only forget the certificate that was brought")
	c.Flags().BoolVar(&acme, "acme", false, "only get no more certificates by itself")
	c.MarkFlagsMutuallyExclusive("custom", "acme")
	return c
}

// certificate prints all about one name.
func (e *env) certificate(cert api.Certificate) error {
	if e.json {
		return e.printJSON(cert)
	}
	fmt.Fprintf(e.Out, "%s is %s\n", plain(cert.Hostname), cert.Status)
	for _, d := range cert.Certificates {
		from := "got by the cloud"
		if d.Source == "custom" {
			from = "brought"
		}
		fmt.Fprintf(e.Out, "  %s: %s, from %s, until %s\n", from, d.Status, plain(cmp.Or(d.Issuer, "an authority without a name")), d.ExpiresAt.Format(time.DateOnly))
	}
	for _, v := range cert.ValidationErrors {
		fmt.Fprintf(e.Out, "  %s\n", plainText(v.Message))
		if v.Remediation != "" {
			fmt.Fprintf(e.Out, "    %s\n", plainText(v.Remediation))
		}
	}
	return nil
}
